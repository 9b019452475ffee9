// The neighbours of a worker as the directory has them: who is there, where, and when that changes.
import { MeshError } from '../errors.ts';
import type { Peer } from '../mesh/peer.ts';
import type { PeerId, Uid } from '../wire/ids.ts';
import type { Replica } from '../wire/messages.ts';

export class Neighbours {
  readonly wanted: readonly Uid[];
  readonly #peer: Peer;
  readonly #there = new Map<Uid, Replica>();
  readonly #waiting = new Set<() => void>();
  #unwatch: () => void = () => {};

  constructor(wanted: readonly Uid[], peer: Peer) {
    this.wanted = wanted;
    this.#peer = peer;
  }

  async watch(): Promise<void> {
    const { monitor } = this.#peer;
    if (!monitor)
      throw new MeshError('usage', 'A worker needs a monitor to find its neighbours.', 'Give a join link with --join.');
    const prefix = this.wanted[0]?.split('.')[0] ?? '';
    this.#unwatch = await monitor.watch(prefix, (records) => {
      for (const uid of this.wanted) {
        const record = records.get(uid);
        const known = this.#there.get(uid);
        if (record?.kind === 'stage') this.#there.set(uid, { uid, peer: record.peer, addresses: record.addresses });
        // One whose link still lives has only lost the monitor.
        else if (known && !this.#peer.isConnected(known.peer)) this.#there.delete(uid);
        else if (known) void this.#suspect(uid, known.peer);
      }
      this.#wake();
    });
  }

  /** Its record went: one unanswered ping ends its links, and then it is gone. */
  async #suspect(uid: Uid, peer: PeerId): Promise<void> {
    await this.#peer.links.suspect(peer, 'its record is gone');
    if (this.#there.get(uid)?.peer !== peer || this.#peer.isConnected(peer)) return;
    this.#there.delete(uid);
    this.#wake();
  }

  present(): Replica[] {
    return this.wanted.flatMap((uid) => this.#there.get(uid) ?? []);
  }

  missing(): string[] {
    return this.wanted.filter((uid) => !this.#there.has(uid));
  }

  /** Resolves at the next change, or after `ms`. */
  change(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#waiting.add(resolve);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiting.delete(resolve);
    });
  }

  /** After `ms`, or when the signal aborts. */
  async rest(ms: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const wake = (): void => resolve();
    const timer = setTimeout(wake, ms);
    signal.addEventListener('abort', wake, { once: true });
    await promise;
    clearTimeout(timer);
    signal.removeEventListener('abort', wake);
  }

  close(): void {
    this.#unwatch();
    this.#wake();
  }

  #wake(): void {
    for (const resolve of [...this.#waiting]) resolve();
  }
}
