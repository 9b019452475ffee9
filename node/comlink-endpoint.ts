// Comlink's adapter for worker_threads, wrapped once: it ships without types that resolve.
import type { Endpoint } from 'comlink';
import type { MessagePort, Worker } from 'node:worker_threads';
// @ts-expect-error the package has no declaration beside this file
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';

const adapt = nodeEndpoint as (port: MessagePort | Worker) => Endpoint;

export const endpointOf = (port: MessagePort | Worker): Endpoint => adapt(port);
