// Why this page is not in a mesh, and what to do about it.
import type { ComponentChildren } from 'preact';
import type { State } from '../state.ts';

export function AccessNotice({ state }: { state: State }) {
  const access = state.access.value;
  switch (access.kind) {
    case 'no-link':
      return (
        <Notice title="This page needs a join link">
          <p>
            The address of this page holds no token. Ask whoever runs the mesh for the join link, or copy it from the
            terminal in which the monitor was started; it looks like this:
          </p>
          <pre>
            <code>{location.origin}/#token=…</code>
          </pre>
        </Notice>
      );
    case 'bad-link':
      return (
        <Notice title="The join link is not complete">
          <p>
            {access.error.message} {access.error.fix}
          </p>
        </Notice>
      );
    case 'insecure':
      return (
        <Notice title="This connection is not secure">
          <p>{access.why}</p>
          <p>
            A monitor that serves other machines speaks https: start it with{' '}
            <code>node signaling/main.ts --host 0.0.0.0</code> and open the link that it prints.
          </p>
        </Notice>
      );
    case 'refused':
      return (
        <Notice
          title={access.error.code === 'unauthorized' ? 'The monitor refused this link' : 'The mesh is not there'}
        >
          <p>
            {access.error.message} {access.error.fix}
          </p>
          {access.error.code === 'unauthorized' ? (
            <p>Tokens change when a mesh is set up anew: ask for the newest join link and open it here.</p>
          ) : null}
          <button type="button" onClick={() => location.reload()}>
            Try again
          </button>
        </Notice>
      );
    case 'joining':
    case 'joined':
      return (
        <section class="card" aria-busy="true">
          <p class="muted">Joining the mesh …</p>
        </section>
      );
    default:
      return access satisfies never;
  }
}

function Notice({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="card warning" role="alert" data-testid="access-notice">
      <h2>{title}</h2>
      {children}
    </section>
  );
}
