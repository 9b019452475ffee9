// The main thread's side of the compute worker: a Compute whose every call settles exactly once, with the worker's answer or,
// when the worker dies first, with `gpu-lost`.
import { transfer } from 'comlink';
import type { Compute } from './compute.ts';
import { MeshError, type MeshErrorShape } from './errors.ts';
import { buffersOf } from './transfer.ts';
import { Waiters } from './waiters.ts';

export type ComputeMethod = keyof Compute;

export interface ComputeRequest {
  method: ComputeMethod;
  args: unknown[];
}

export type ComputeReply = { ok: true; value: unknown } | { ok: false; error: MeshErrorShape };

/** What comlink exposes. */
export interface RemoteCompute {
  request(request: ComputeRequest): Promise<ComputeReply>;
}

export function computeClient(remote: RemoteCompute, died: Promise<string>): Compute {
  const waiters = new Waiters();
  void died.then((reason) =>
    waiters.die(
      new MeshError('gpu-lost', `The compute worker ended: ${reason}`, 'Start it again, here or on another peer.'),
    ),
  );

  async function call<T>(method: ComputeMethod, ...args: unknown[]): Promise<T> {
    if (waiters.death !== null) throw waiters.death;
    const reply = await waiters.attach(remote.request(transfer({ method, args }, buffersOf(args))));
    if (!reply.ok) throw MeshError.fromShape(reply.error);
    return reply.value as T;
  }

  return {
    describe: () => call('describe'),
    open: (spec) => call('open', spec),
    close: (stage) => call('close', stage),
    forward: (stage, key, x, options) => call('forward', stage, key, x, options),
    backward: (stage, key, dy, options) => call('backward', stage, key, dy, options),
    loss: (stage, x, y, options) => call('loss', stage, x, y, options),
    discard: (stage, options) => call('discard', stage, options),
    read: (stage, kind, names) => call('read', stage, kind, names),
    write: (stage, kind, tensors) => call('write', stage, kind, tensors),
    combine: (stage, kind, parts, coefficients, mode) => call('combine', stage, kind, parts, coefficients, mode),
    squaredNorm: (stage, options) => call('squaredNorm', stage, options),
    step: (stage, options) => call('step', stage, options),
    snapshot: (stage, units) => call('snapshot', stage, units),
    serve: (stage, request) => call('serve', stage, request),
    receive: (stage, request, tensors) => call('receive', stage, request, tensors),
    merge: (stage, mixes) => call('merge', stage, mixes),
    drop: (stage, parts) => call('drop', stage, parts),
    outerGradient: (stage, units, format) => call('outerGradient', stage, units, format),
    outerStep: (stage, step) => call('outerStep', stage, step),
    load: (stage, request, tensors) => call('load', stage, request, tensors),
  };
}
