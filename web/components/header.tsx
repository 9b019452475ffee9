import type { Access, State } from '../state.ts';

export function Header({ state }: { state: State }) {
  const [tone, text] = statusOf(state.access.value);
  return (
    <header class="bar">
      <span class="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <path d="M3 20 16 8l13 12" />
          <circle cx="16" cy="24" r="3" />
        </svg>
        Skein
      </span>
      <span class={`status ${tone}`} role="status" data-testid="connection">
        {text}
      </span>
    </header>
  );
}

function statusOf(access: Access): [tone: 'good' | 'busy' | 'bad', text: string] {
  switch (access.kind) {
    case 'joined':
      return access.isConnected ? ['good', 'Connected'] : ['busy', 'Monitor lost, trying again'];
    case 'joining':
      return ['busy', 'Joining'];
    case 'no-link':
    case 'bad-link':
    case 'insecure':
    case 'refused':
      return ['bad', 'Not joined'];
    default:
      return access satisfies never;
  }
}
