// What the compute worker offers: one function, so that errors keep their code and array buffers are transferred, not copied.
// The host's entry (node/compute-worker.ts, web/compute-worker.ts) gives the endpoint; this file knows neither host.
import { expose, transfer, type Endpoint } from 'comlink';
import { platform } from '#platform';
import { createCompute } from './compute-engine.ts';
import type { RemoteCompute } from './compute-client.ts';
import { MeshError, toMeshError } from './errors.ts';
import type { Platform } from './platform.ts';
import { buffersOf } from './transfer.ts';

/** Returns the function that gives the device up before the worker ends. */
export function serveCompute(endpoint?: Endpoint, host: Platform = platform): () => Promise<void> {
  const { compute, stop } = createCompute(host);
  const remote: RemoteCompute = {
    async request({ method, args }) {
      try {
        if (!Object.hasOwn(compute, method))
          throw new MeshError('usage', `There is no ${String(method)}.`, 'See runtime/compute.ts.');
        // The types were checked on the other side of this call; here it is only a name and its arguments.
        const call = compute[method] as (...given: unknown[]) => Promise<unknown>;
        const value = await call(...args);
        return transfer({ ok: true as const, value }, buffersOf(value));
      } catch (cause) {
        return { ok: false, error: toMeshError(cause).toShape() };
      }
    },
  };
  expose(remote, endpoint);
  return stop;
}
