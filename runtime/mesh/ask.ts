// Asking a replica, wherever it is, and asking the next one when it fails. The one place where a hop is replaced.
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit, MicrobatchKey } from '../events.ts';
import type { Handlers, RequestOptions } from '../wire/channel.ts';
import type { Hop, MessageKind, Replica, Reply, Request } from '../wire/messages.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Tensors } from '../tensor.ts';
import type { Links } from './links.ts';

export interface Answered<K extends MessageKind> {
  body: Reply<K>;
  tensors: Tensors;
}

export type Ask = <K extends MessageKind>(
  replica: Replica,
  kind: K,
  body: Request<K>,
  options: RequestOptions,
) => Promise<Answered<K>>;

/** Over a link, or straight to our own handlers when the replica lives in this very peer (with bytes of its own, as over a link). */
export function askerOf(self: PeerId, links: () => Links, own: () => Handlers): Ask {
  return async (replica, kind, body, options) => {
    if (replica.peer !== self) return links().request(replica, kind, body, options);
    const handler = own()[kind];
    if (!handler) throw new MeshError('no-stage', `This peer does not host ${replica.uid}.`, 'Check the UID.');
    const limit = AbortSignal.timeout(Math.ceil(options.deadlineMs));
    const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
    const answer = await handler(body, copiesOf(options.tensors), {
      peer: self,
      transport: 'local',
      signal,
      deadlineMs: options.deadlineMs,
      idle: (work) => work(),
    });
    return { body: answer.body, tensors: copiesOf(answer.tensors) };
  };
}

const copiesOf = (tensors: Tensors = new Map()): Tensors =>
  new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, data: tensor.data.slice() }]));

/** Whether another replica may do better. What is wrong with the data or the step itself is wrong everywhere. */
export function isReplaceable(error: MeshError): boolean {
  switch (error.code) {
    case 'link-lost':
    case 'unreachable':
    case 'unauthorized':
    case 'deadline':
    case 'gpu-lost':
    case 'out-of-memory':
    case 'no-stage':
    case 'busy':
    case 'closed':
      return true;
    default:
      return false;
  }
}

export interface PassOptions {
  ask: Ask;
  emit: Emit;
  key: MicrobatchKey;
  signal: AbortSignal;
  /** For the hop as a whole; each replica gets its share. */
  deadlineMs: number;
  tensors: Tensors;
}

/**
 * Sends to the first replica of the hop that does it. A lost link is dialled once more before its replica is given up, because a
 * replica that did the work already answers again without doing it twice. Rejects with the last error, or `no-replica`.
 */
export async function passOn<K extends 'stage.forward' | 'stage.infer'>(
  hop: Hop,
  kind: K,
  bodyFor: (replica: Replica) => Request<K>,
  options: PassOptions,
): Promise<Answered<K>> {
  const until = performance.now() + options.deadlineMs;
  let last: MeshError | null = null;
  for (const [index, replica] of hop.entries()) {
    for (const isRedial of [false, true]) {
      const deadlineMs = (until - performance.now()) / (hop.length - index);
      if (deadlineMs <= 0) break;
      try {
        return await options.ask(replica, kind, bodyFor(replica), {
          tensors: options.tensors,
          signal: options.signal,
          deadlineMs,
        });
      } catch (cause) {
        last = toMeshError(cause);
        if (options.signal.aborted || !isReplaceable(last)) throw last;
        if (isRedial || last.code !== 'link-lost') break;
      }
    }
    const next = hop[index + 1];
    if (next)
      options.emit({
        kind: 'hop.replaced',
        uid: replica.uid,
        by: next.uid,
        key: options.key,
        reason: last?.message ?? 'no time left',
      });
  }
  throw last ?? new MeshError('no-replica', 'A hop has no replica left.', 'Start another replica of that stage.');
}
