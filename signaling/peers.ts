// The joined peers and what their messages do: the join itself, records, watching, introducing, relaying, events.
import type { Socket } from 'socket.io';
import type { z } from 'zod';
import { MeshError, toMeshError } from '../runtime/errors.ts';
import type { Emit, MeshEvent } from '../runtime/events.ts';
import { openRecord, randomText } from '../runtime/mesh/identity.ts';
import type { PeerId } from '../runtime/wire/ids.ts';
import { MAX_EVENT_CHARACTERS, type replies } from '../runtime/wire/monitor-messages.ts';
import type { SignedRecord } from '../runtime/wire/records.ts';
import { checkJoin, createTokenCheck, JOIN_WITHIN_MS } from './auth.ts';
import { ChangeFeed, type ChangeBatch } from './change-feed.ts';
import { EventsFeed } from './events-feed.ts';
import { Directory, type Change } from './records.ts';
import { passBytes, passSignal } from './relay.ts';
import { Session, type Handlers, type Payload } from './session.ts';

export type IceServer = z.infer<typeof replies.join>['iceServers'][number];

const SWEEP_EVERY_MS = 250;
/** What an answer or a batch counts for against the sender's rate of messages. */
const RECORDS_PER_MESSAGE = 16;
const EVENTS_PER_MESSAGE = 8;
const MAX_PREFIXES = 64;
const MAX_PEERS = 5_000;

/** Socket.IO's reasons, for people. */
const WORDS_OF_REASON: ReadonlyMap<string, string> = new Map([
  ['client namespace disconnect', 'it said goodbye'],
  ['server namespace disconnect', 'the monitor closed its connection'],
  ['server shutting down', 'the monitor ended'],
  ['transport close', 'its connection closed'],
  ['transport error', 'its connection broke'],
  ['ping timeout', 'it stopped answering'],
]);

export interface PeersOptions {
  token: string;
  iceServers: IceServer[];
  emit: Emit;
  now: () => number;
}

export class Peers {
  readonly #options: PeersOptions;
  readonly #isToken: (candidate: string) => boolean;
  readonly #sessions = new Map<PeerId, Session>();
  readonly #feed: EventsFeed;
  readonly #changes: ChangeFeed;
  readonly #sweeper: NodeJS.Timeout;
  readonly directory: Directory;

  constructor(options: PeersOptions) {
    this.#options = options;
    this.#isToken = createTokenCheck(options.token);
    this.#feed = new EventsFeed({ now: options.now });
    this.#changes = new ChangeFeed(() =>
      this.#sessions.values().map((session) => ({
        prefixes: session.prefixes,
        send: (batch) => this.#sendChanges(session, batch),
      })),
    );
    this.directory = new Directory({ now: options.now, onChange: (change) => this.#onChange(change) });
    this.#sweeper = setInterval(() => this.directory.sweep(), SWEEP_EVERY_MS);
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Takes a fresh socket: it is sent its challenge, and closed if it does not join in time. */
  admit(socket: Socket): void {
    const { now } = this.#options;
    const nonce = randomText();
    let wasJoinTried = false;
    const timer = setTimeout(() => socket.disconnect(true), JOIN_WITHIN_MS);
    const handlers: Handlers = {
      join: async (payload) => {
        if (wasJoinTried)
          throw new MeshError('unauthorized', 'A socket joins once, as one peer.', 'Connect again to join again.');
        wasJoinTried = true;
        clearTimeout(timer);
        return this.#join(session, payload, nonce);
      },
      announce: (payload) => this.#announce(session, payload),
      withdraw: ({ names }) => {
        for (const name of names) if (session.peer) this.directory.withdraw(session.peer, name, 'withdrawn');
        return {};
      },
      discover: ({ prefix }) => this.#found(session, prefix),
      watch: ({ prefix }) => this.#watch(session, prefix),
      signal: (payload) => passSignal(session, payload, (peer) => this.#sessions.get(peer)),
      relay: (payload) => passBytes(session, payload, (peer) => this.#sessions.get(peer)),
      publish: ({ events }) => {
        session.charge(events.length / EVENTS_PER_MESSAGE, 0);
        if (session.peer) this.#feed.add(session.peer, events.filter(isShort));
        return {};
      },
      observe: () => this.#observe(session),
    };
    const session = new Session(socket, handlers, now);
    socket.on('disconnect', (reason) => {
      clearTimeout(timer);
      this.#leave(session, WORDS_OF_REASON.get(reason) ?? reason);
    });
    socket.emit('challenge', { nonce, protocol: 1, now: Math.trunc(now()) });
  }

  close(): void {
    clearInterval(this.#sweeper);
    this.#feed.close();
    this.#changes.close();
  }

  async #join(session: Session, join: Payload<'join'>, nonce: string): Promise<object> {
    try {
      await checkJoin(join, nonce, this.#isToken);
      if (this.size >= MAX_PEERS)
        throw new MeshError('busy', `The monitor holds ${MAX_PEERS} peers, its limit.`, 'Start another monitor.');
    } catch (cause) {
      setImmediate(() => session.socket.disconnect(true)); // after the answer
      throw cause;
    }
    if (!session.socket.connected) return {};
    const before = this.#sessions.get(join.peer);
    session.peer = join.peer;
    this.#sessions.set(join.peer, session);
    if (before) before.socket.disconnect(true);
    else this.#emit({ kind: 'peer.joined', peer: join.peer, role: join.role });
    return { iceServers: this.#options.iceServers };
  }

  /** A socket that was replaced by a newer one of its peer leaves nothing behind. */
  #leave(session: Session, reason: string): void {
    const { peer } = session;
    if (peer === null || this.#sessions.get(peer) !== session) return;
    this.#sessions.delete(peer);
    this.directory.dropPeer(peer, `the peer left: ${reason}`);
    this.#emit({ kind: 'peer.left', peer, reason });
  }

  async #announce(session: Session, { records }: Payload<'announce'>): Promise<object> {
    session.charge(records.length, 0);
    const refused: z.infer<typeof replies.announce>['refused'] = [];
    for (const signed of records) {
      const error = await this.#take(session, signed);
      if (!error) continue;
      const name = nameOf(signed);
      this.#emit({ kind: 'record.rejected', name, reason: error.message });
      refused.push({ name, error: error.toShape() });
    }
    return { refused };
  }

  async #take(session: Session, signed: SignedRecord): Promise<MeshError | null> {
    try {
      const record = await openRecord(signed, this.#options.now());
      if (record.peer !== session.peer)
        return new MeshError(
          'forged-record',
          `The record ${record.name} names another peer than the one that sent it.`,
          'A peer announces its own records only.',
        );
      // The socket may have gone while the signature was checked: its record would stay behind.
      if (this.#sessions.get(record.peer) !== session) return null;
      const outcome = this.directory.announce(record, signed);
      return outcome.kind === 'refused' ? outcome.error : null;
    } catch (cause) {
      return toMeshError(cause);
    }
  }

  #found(session: Session, prefix: string): { records: SignedRecord[] } {
    const records = this.directory.find(prefix).map(({ signed }) => signed);
    session.charge(records.length / RECORDS_PER_MESSAGE, 0);
    return { records };
  }

  #watch(session: Session, prefix: string): object {
    if (session.prefixes.size >= MAX_PREFIXES && !session.prefixes.has(prefix))
      throw new MeshError('too-large', `A peer watches up to ${MAX_PREFIXES} prefixes.`, 'Watch a shorter prefix.');
    this.#changes.flush(); // so that the answer is newer than every change sent before it
    session.prefixes.add(prefix);
    return this.#found(session, prefix);
  }

  #observe(session: Session): object {
    if (!session.isObserving) {
      session.isObserving = true;
      const stop = this.#feed.observe((events) => {
        session.send('events', { events }); // an observer that reads too slowly misses some
      });
      session.socket.on('disconnect', stop);
    }
    return { events: this.#feed.newest() };
  }

  #sendChanges(session: Session, batch: ChangeBatch): void {
    // A watcher that misses a change would see a wrong directory for ever: it has to come again.
    if (!session.send('records', batch)) session.socket.disconnect(true);
  }

  #onChange(change: Change): void {
    this.#changes.add(change);
    if (change.kind === 'removed')
      this.#emit({ kind: 'record.removed', name: change.name, peer: change.peer, reason: change.reason });
    else if (change.isNew) this.#emit({ kind: 'record.added', name: change.record.name, peer: change.record.peer });
  }

  #emit(event: MeshEvent): void {
    this.#feed.add('monitor', [event]);
    this.#options.emit(event);
  }
}

const isShort = (event: object): boolean => JSON.stringify(event).length <= MAX_EVENT_CHARACTERS;

/** The name that a record claims, for a message about it; it may be anything. */
function nameOf(signed: SignedRecord): string {
  const match = /"name":"([A-Za-z0-9._/-]{1,100})"/.exec(signed.payload);
  return match?.[1] ?? 'a record without a name';
}
