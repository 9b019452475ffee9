// A peer's side of the monitor: join with a challenge, announce records and keep them alive, watch the directory, introduce and
// relay. It reconnects by itself and announces everything again; nothing that already runs over links depends on it.
import { toMeshError } from '../errors.ts';
import type { Emit, MeshEvent } from '../events.ts';
import type { PeerId } from '../wire/ids.ts';
import { replies } from '../wire/monitor-messages.ts';
import { RECORD_TTL_MS, type MeshRecord, type SignedRecord } from '../wire/records.ts';
import { Announcer } from './announcer.ts';
import { DirectoryView, type OnRecords } from './directory-view.ts';
import { EventOutbox } from './event-outbox.ts';
import { openRecord, type Identity } from './identity.ts';
import type { JoinTarget } from './join-url.ts';
import { MonitorConnection, type IncomingPayload, type Role } from './monitor-connection.ts';

export { formatJoinUrl, parseJoinUrl, type JoinTarget } from './join-url.ts';
export type { Role, SignedRecord };

export interface Monitor {
  readonly peer: PeerId;
  readonly isConnected: boolean;
  /** ICE servers that the monitor told us to use (its own list, empty by default). */
  readonly iceServers: RTCIceServer[];
  /**
   * Announces and renews until `withdraw` or `close`; `make` is asked for fresh fields at each renewal, and its peer and times are
   * filled in here. Throws what the monitor refused it for (`busy`: another peer holds the name); while there is no monitor it
   * resolves at once and the record goes out at the next join.
   */
  announce(name: string, make: () => MeshRecord): Promise<void>;
  withdraw(name: string): Promise<void>;
  /** Verified live records whose name starts with `prefix`, now. */
  discover(prefix: string, signal?: AbortSignal): Promise<MeshRecord[]>;
  /**
   * The live view. `onChange` is called once at first and then at every change (a renewal without news is none); entries outlive a
   * lost monitor and are dropped only if not renewed after its return.
   */
  watch(prefix: string, onChange: OnRecords): Promise<() => void>;
  /** As `relay`: a peer that is not there, or a lost monitor, comes back as an `absent` message. */
  signal(to: PeerId, session: string, data: string): void;
  /** At most MAX_RELAY_BYTES. The bytes must not be changed afterwards. */
  relay(to: PeerId, session: string, bytes: Uint8Array): void;
  /** The receivers of signals and relayed bytes (the WebRTC and relay transports). */
  onMessage(listener: (message: MonitorMessage) => void): () => void;
  publish(events: readonly MeshEvent[]): void;
  observe(listener: (events: readonly PublishedEvent[]) => void): Promise<() => void>;
  close(): Promise<void>;
}

export type MonitorMessage =
  | { kind: 'signal'; from: PeerId; session: string; data: string }
  | { kind: 'relay'; from: PeerId; session: string; bytes: Uint8Array<ArrayBuffer> }
  | { kind: 'absent'; peer: PeerId; session: string }
  | { kind: 'lost'; reason: string };

/** An event as observers get it: who published it (a peer id or `monitor`), and when the monitor got it. */
export type PublishedEvent = MeshEvent & { publisher: string; at: number };

export interface JoinOptions {
  target: JoinTarget;
  identity: Identity;
  role: Role;
  emit: Emit;
  /** Ends the first join; a monitor that was joined is left with `close`. */
  signal?: AbortSignal;
  /** How long the first join may take, 5 s by default; a monitor that is still starting is tried again until then. */
  deadlineMs?: number;
  now?: () => number;
  /** socket.io-client options of the host, such as those that pin a certificate (node/pinned-tls.ts). */
  transportOptions?: object;
}

/** Throws `unauthorized` (wrong token, or another certificate than the link's), `unreachable`, `cancelled`. */
export async function joinMonitor(options: JoinOptions): Promise<Monitor> {
  const client = new MonitorClient(options);
  await client.open();
  return client;
}

const RENEW_EVERY_MS = RECORD_TTL_MS / 3;
const SWEEP_EVERY_MS = 500;
const FLUSH_EVERY_MS = 100;
const REPEAT_MS = 1_000;

class MonitorClient implements Monitor {
  readonly #options: JoinOptions;
  readonly #connection: MonitorConnection;
  readonly #view: DirectoryView;
  readonly #announcer: Announcer;
  readonly #listeners = new Set<(message: MonitorMessage) => void>();
  readonly #observers = new Set<(events: readonly PublishedEvent[]) => void>();
  readonly #outbox = new EventOutbox();
  readonly #timers: ReturnType<typeof setInterval>[] = [];
  /** Records are verified and applied one message after the other. */
  #incoming: Promise<void> = Promise.resolve();

  constructor(options: JoinOptions) {
    this.#options = options;
    this.#connection = new MonitorConnection({
      target: options.target,
      identity: options.identity,
      role: options.role,
      emit: options.emit,
      deadlineMs: options.deadlineMs ?? 5_000,
      signal: options.signal,
      now: options.now ?? Date.now,
      transportOptions: options.transportOptions ?? {},
      onJoined: () => this.#onJoined(),
      onLost: (reason) => this.#onLost(reason),
    });
    this.#view = new DirectoryView({ now: this.#connection.nowOfMonitor, emit: options.emit });
    this.#announcer = new Announcer(options.identity, this.#connection, options.emit);
    this.#connection.on('records', (change) => this.#take(change));
    this.#connection.on('signal', (message) => this.#tell({ kind: 'signal', ...message }));
    this.#connection.on('absent', (message) => this.#tell({ kind: 'absent', ...message }));
    // A copy: Node's socket hands out views of a shared buffer, which must not be transferred to a worker.
    this.#connection.on('relay', ({ bytes, ...message }) =>
      this.#tell({ kind: 'relay', ...message, bytes: new Uint8Array(bytes) }),
    );
    this.#connection.on('events', ({ events }) => this.#show(events as unknown as PublishedEvent[]));
  }

  async open(): Promise<void> {
    await this.#connection.open();
    this.#timers.push(
      setInterval(() => void this.#announcer.renew(), RENEW_EVERY_MS),
      setInterval(() => this.#sweep(), SWEEP_EVERY_MS),
      setInterval(() => this.#flush(), FLUSH_EVERY_MS),
    );
  }

  get peer(): PeerId {
    return this.#options.identity.peer;
  }

  get isConnected(): boolean {
    return this.#connection.isJoined;
  }

  get iceServers(): RTCIceServer[] {
    return this.#connection.iceServers;
  }

  announce(name: string, make: () => MeshRecord): Promise<void> {
    return this.#announcer.announce(name, make);
  }

  withdraw(name: string): Promise<void> {
    return this.#announcer.withdraw(name);
  }

  async discover(prefix: string, signal?: AbortSignal): Promise<MeshRecord[]> {
    const { records } = await this.#connection.call('discover', { prefix }, replies.records, undefined, { signal });
    return this.#verified(records);
  }

  async watch(prefix: string, onChange: OnRecords): Promise<() => void> {
    const { start, stop } = this.#view.watch(prefix, onChange);
    try {
      if (this.isConnected) await this.#watchAgain(prefix);
    } catch (cause) {
      if (this.isConnected) {
        stop();
        throw cause;
      }
    }
    await this.#incoming;
    start();
    return stop;
  }

  signal(to: PeerId, session: string, data: string): void {
    if (!this.#connection.send('signal', { to, session, data })) this.#tellAbsent(to, session);
  }

  relay(to: PeerId, session: string, bytes: Uint8Array): void {
    if (!this.#connection.send('relay', { to, session, bytes })) this.#tellAbsent(to, session);
  }

  onMessage(listener: (message: MonitorMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  publish(events: readonly MeshEvent[]): void {
    this.#outbox.add(events);
  }

  async observe(listener: (events: readonly PublishedEvent[]) => void): Promise<() => void> {
    const { events } = await this.#connection.call('observe', {}, replies.observe, () => this.#observers.add(listener));
    if (events.length > 0) listener(events as unknown as PublishedEvent[]);
    return () => this.#observers.delete(listener);
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    this.#flush();
    try {
      await this.#announcer.close();
    } finally {
      this.#connection.close();
      await this.#incoming;
    }
  }

  #onJoined(): void {
    const { emit, target } = this.#options;
    this.#view.joined();
    emit({ kind: 'monitor.joined', url: target.url, peer: this.peer });
    void this.#announcer.renew();
    for (const prefix of this.#view.prefixes) void this.#repeat('Watching again', () => this.#watchAgain(prefix));
    if (this.#observers.size > 0)
      void this.#repeat('Observing again', () => this.#connection.call('observe', {}, replies.observe));
    const dropped = this.#outbox.takeDropped();
    if (dropped > 0) this.#warn('Publishing', `${dropped} events were dropped while the monitor was away`);
  }

  #onLost(reason: string): void {
    this.#view.lost();
    this.#options.emit({ kind: 'monitor.lost', reason });
    this.#tell({ kind: 'lost', reason });
  }

  /** Until it is done or the monitor is lost again: without it this peer would be blind to whoever comes. */
  async #repeat(what: string, work: () => Promise<unknown>): Promise<void> {
    while (this.isConnected) {
      try {
        await work();
        return;
      } catch (cause) {
        this.#warn(what, cause);
        await new Promise((resolve) => setTimeout(resolve, REPEAT_MS));
      }
    }
  }

  async #watchAgain(prefix: string): Promise<void> {
    await this.#connection.call('watch', { prefix }, replies.records, ({ records }) =>
      this.#take({ added: records, removed: [] }),
    );
    await this.#incoming;
  }

  #take({ added, removed }: IncomingPayload<'records'>): void {
    this.#incoming = this.#incoming.then(async () => {
      const records = await this.#verified(added);
      for (const { name, peer, reason } of removed) this.#view.remove(name, peer, reason);
      for (const record of records) this.#view.apply(record);
      this.#view.notify();
    });
  }

  /** Those that carry the signature of the peer they name; the others are reported and left out. */
  async #verified(signed: readonly SignedRecord[]): Promise<MeshRecord[]> {
    const nowMs = this.#connection.nowOfMonitor();
    const opened = await Promise.all(
      signed.map((one) =>
        openRecord(one, nowMs).catch((cause: unknown) => {
          this.#options.emit({ kind: 'record.rejected', name: 'from the monitor', reason: toMeshError(cause).message });
          return null;
        }),
      ),
    );
    return opened.filter((record) => record !== null);
  }

  #sweep(): void {
    this.#view.sweep();
    this.#view.notify();
  }

  #flush(): void {
    while (this.isConnected) {
      const events = this.#outbox.take();
      if (!events) return;
      this.#connection.send('publish', { events: events.map((event) => ({ ...event })) });
    }
  }

  #tell(message: MonitorMessage): void {
    for (const listener of this.#listeners) listener(message);
  }

  #tellAbsent(peer: PeerId, session: string): void {
    queueMicrotask(() => this.#tell({ kind: 'absent', peer, session }));
  }

  #show(events: PublishedEvent[]): void {
    for (const observer of this.#observers) observer(events);
  }

  #warn(what: string, cause: unknown): void {
    const why = cause instanceof Error ? cause.message : String(cause);
    this.#options.emit({ kind: 'log', level: 'warn', message: `${what} at the monitor failed: ${why}.` });
  }
}
