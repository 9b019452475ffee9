// Transport between peers of the same process. Bytes are copied, so that what one end keeps the other cannot change or transfer away.
import { MeshError } from '../errors.ts';
import { Inbox, pipeClosed, type Pipe } from '../wire/pipe.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Transport } from './transport.ts';

/** The meeting place of one process; make one and give it to each peer. */
export class LocalHub {
  readonly #accept = new Map<PeerId, (pipe: Pipe) => void>();

  transport(self: PeerId): Transport {
    return {
      kind: 'local',
      unreachable: (target) => (this.#accept.has(target.peer) && target.peer !== self ? null : 'not in this process'),
      dial: (target) => {
        const accept = this.#accept.get(target.peer);
        if (!accept)
          return Promise.reject(
            new MeshError('unreachable', 'That peer is not in this process.', 'Use another transport.'),
          );
        const [near, far] = localPair();
        accept(far);
        return Promise.resolve(near);
      },
      listen: (onPipe) => {
        this.#accept.set(self, onPipe);
      },
      close: () => {
        this.#accept.delete(self);
        return Promise.resolve();
      },
    };
  }
}

/** Two ends of a pipe in memory. Delivery is by task, as over a real link, so that senders and receivers take turns. */
export function localPair(): [Pipe, Pipe] {
  const inboxes = [new Inbox(), new Inbox()] as const;
  const end = (reason: string): void => {
    for (const inbox of inboxes) inbox.end(reason);
  };
  const make = (own: Inbox, other: Inbox): Pipe => {
    // One queue: separate tasks need not run in the order in which they were asked for.
    const underWay: { bytes: Uint8Array<ArrayBuffer>; resolve(): void }[] = [];
    const deliver = (): void => {
      for (const { bytes, resolve } of underWay.splice(0)) {
        if (!other.push(bytes)) end('the other end does not listen');
        resolve();
      }
    };
    return {
      transport: 'local',
      maxMessageBytes: 256 * 1024,
      binding: '',
      send: (message) => {
        if (own.closedReason !== null) return Promise.reject(pipeClosed(own.closedReason));
        const { promise, resolve } = Promise.withResolvers<void>();
        underWay.push({ bytes: message.slice(), resolve });
        if (underWay.length === 1) asTask(deliver);
        return promise;
      },
      listen: (listener) => own.listen(listener),
      // What was sent before arrives before the end does.
      close: (reason) => {
        deliver();
        end(reason);
      },
    };
  };
  return [make(inboxes[0], inboxes[1]), make(inboxes[1], inboxes[0])];
}

function asTask(run: () => void): void {
  const { port1, port2 } = new MessageChannel();
  port2.onmessage = () => {
    port2.close();
    run();
  };
  port1.postMessage(null);
}
