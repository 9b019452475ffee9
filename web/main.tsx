// The page: reads the join link from its own address, looks for a GPU, watches the mesh; lending waits for a click.
import { render } from 'preact';
import { z } from 'zod';
import { toMeshError } from '../runtime/errors.ts';
import { parseJoinUrl } from '../runtime/mesh/join-url.ts';
import { platform } from '#platform';
import { App } from './components/app.tsx';
import { findGpu } from './find-gpu.ts';
import { followVisibility } from './visibility.ts';
import { createLender } from './lending.ts';
import { observe } from './observe.ts';
import { createState, type Access } from './state.ts';
import './style.css';

// The page's policy forbids code made from text, which is how zod would compile its schemas.
z.config({ jitless: true });

const state = createState();
const lender = createLender(state);

function begin(): void {
  const access = readLink();
  state.access.value = access;
  const target = state.target.value;
  if (access.kind === 'joining' && target) void observe(target, state);
}

/** The token stays in memory and in the address, so that reloading works; it is sent to nobody but the monitor. */
function readLink(): Access {
  if (!globalThis.isSecureContext) return { kind: 'insecure', why: platform.gpuMissing() };
  if (location.hash.length <= 1) return { kind: 'no-link' };
  try {
    state.target.value = parseJoinUrl(location.href);
    return { kind: 'joining' };
  } catch (cause) {
    return { kind: 'bad-link', error: toMeshError(cause).toShape() };
  }
}

const query = new URLSearchParams(location.search);
state.wantedUid.value = query.get('stage')?.slice(0, 100) ?? '';
const worker = query.get('worker') ?? '';
state.wantedPlace.value = {
  run: query.get('run')?.slice(0, 100) ?? null,
  worker: /^\d{1,6}$/.test(worker) ? Number(worker) : null,
};
begin();
void findGpu().then((gpu) => {
  state.gpu.value = gpu;
});
followVisibility(state);
// Another link pasted into the same tab changes the fragment only, which loads nothing by itself.
addEventListener('hashchange', () => location.reload());
addEventListener('pagehide', () => lender.abandon());

const root = document.getElementById('app');
if (root) render(<App state={state} lender={lender} />, root);
