// All links of one peer: dials by every transport that may lead there, measures, keeps the best, and moves on when it dies.
// Callers name a peer and get an answer; which way it went is not their business. Inbound links serve as well as dialled ones.
import { MeshError, toMeshError } from '../errors.ts';
import type { Emit, TransportKind } from '../events.ts';
import { Channel, type Handlers, type RequestOptions } from '../wire/channel.ts';
import type { PeerId } from '../wire/ids.ts';
import type { MessageKind, Reply, Request } from '../wire/messages.ts';
import type { MuxOptions } from '../wire/mux.ts';
import type { Pipe } from '../wire/pipe.ts';
import type { Tensors } from '../tensor.ts';
import { chooseTransport, type Measurement } from './choose.ts';
import { handshake } from './handshake.ts';
import type { Identity } from './identity.ts';
import type { Target, Transport } from './transport.ts';

export interface LinksOptions {
  identity: Identity;
  token: string;
  transports: readonly Transport[];
  handlers: Handlers;
  emit: Emit;
  mux?: Partial<MuxOptions>;
  /** Time for one transport to connect and shake hands. */
  dialMs?: number;
  /** After the first way is up, how long the others may still take to be compared. */
  compareMs?: number;
  probeBytes?: number;
}

interface Found extends Measurement {
  channel: Channel;
}

const PINGS = 5;
const PROBES = 2;

export class Links {
  readonly #options: LinksOptions;
  readonly #handlers: Handlers;
  readonly #channels = new Map<PeerId, Channel[]>();
  readonly #dialling = new Map<PeerId, Promise<Channel>>();
  readonly #lastTransport = new Map<PeerId, TransportKind>();
  readonly #stop = new AbortController();
  /** What went over links that are closed. */
  readonly #past = { bytesIn: 0, bytesOut: 0 };

  constructor(options: LinksOptions) {
    this.#options = options;
    // The same object as given: what is added to it later is answered too.
    this.#handlers = Object.assign(options.handlers, { 'link.probe': () => Promise.resolve({ body: {} }) });
    for (const transport of options.transports) transport.listen((pipe) => void this.#accept(pipe));
  }

  /** The open link to a peer, dialling if there is none. */
  async to(target: Target, signal?: AbortSignal): Promise<Channel> {
    if (target.peer === this.#options.identity.peer)
      throw new MeshError('internal', 'A peer asked for a link to itself.', 'This is a defect: please report it.');
    const open = this.current(target.peer);
    if (open) return open;
    let dial = this.#dialling.get(target.peer);
    if (!dial) {
      dial = this.#dial(target).finally(() => this.#dialling.delete(target.peer));
      this.#dialling.set(target.peer, dial);
      dial.catch(() => undefined); // every waiter gets the error; none may be waiting any more
    }
    return signal ? raced(dial, signal) : dial;
  }

  async request<K extends MessageKind>(
    target: Target,
    kind: K,
    body: Request<K>,
    options: RequestOptions,
  ): Promise<{ body: Reply<K>; tensors: Tensors }> {
    const started = performance.now();
    const limit = AbortSignal.timeout(Math.ceil(options.deadlineMs));
    const channel = await this.to(target, options.signal ? AbortSignal.any([options.signal, limit]) : limit);
    return channel.request(kind, body, {
      ...options,
      deadlineMs: Math.max(1, options.deadlineMs - (performance.now() - started)),
    });
  }

  /** The newest open channel of a peer. */
  current(peer: PeerId): Channel | undefined {
    return this.#channels.get(peer)?.findLast((channel) => channel.isOpen);
  }

  /** A hint that this peer is gone (its record went): one unanswered ping ends its links at once instead of after the silence limit. */
  async suspect(peer: PeerId, reason: string): Promise<void> {
    for (const channel of [...(this.#channels.get(peer) ?? [])])
      await channel.ping(1_500).catch(() => channel.close(`${reason}, and it does not answer`));
  }

  /** The open links, dialled and accepted, each peer once. */
  open(): { peer: PeerId; transport: TransportKind }[] {
    return [...this.#channels.keys()].flatMap((peer) => {
      const channel = this.current(peer);
      return channel ? [{ peer, transport: channel.transport }] : [];
    });
  }

  /** Bytes since the start, over links that are gone too. */
  traffic(): { bytesIn: number; bytesOut: number } {
    let { bytesIn, bytesOut } = this.#past;
    for (const channels of this.#channels.values())
      for (const channel of channels) {
        bytesIn += channel.bytesIn;
        bytesOut += channel.bytesOut;
      }
    return { bytesIn, bytesOut };
  }

  async close(reason: string): Promise<void> {
    this.#stop.abort(new MeshError('closed', reason, 'Nothing to do.'));
    for (const channels of this.#channels.values()) for (const channel of [...channels]) channel.close(reason);
    await Promise.all(this.#options.transports.map((transport) => transport.close()));
  }

  async #accept(pipe: Pipe): Promise<void> {
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(this.#dialMs)]);
    try {
      const peer = await handshake(pipe, {
        identity: this.#options.identity,
        token: this.#options.token,
        isDialer: false,
        expected: null,
        signal,
      });
      this.#keep(this.#open(pipe, peer));
    } catch (cause) {
      this.#options.emit({ kind: 'frame.rejected', peer: 'unknown', reason: toMeshError(cause).message });
    }
  }

  async #dial(target: Target): Promise<Channel> {
    const failures = new Map<TransportKind, string>();
    const { transports } = this.#options;
    const usable = transports.filter((transport) => {
      const why = transport.unreachable(target);
      if (why !== null) failures.set(transport.kind, why);
      return why === null;
    });
    // In the same process nothing else can win; the relay burdens the monitor and is for those who have no other way.
    const rounds = [
      usable.filter((t) => t.kind === 'local'),
      usable.filter((t) => t.kind === 'tcp' || t.kind === 'webrtc'),
      usable.filter((t) => t.kind === 'relay'),
    ];
    for (const round of rounds) {
      const found = round.length > 0 ? await this.#tryAll(target, round, failures) : [];
      const choice = chooseTransport(found, failures);
      const best = choice ? found[choice.index] : undefined;
      if (!choice || !best) continue;
      for (const other of found) if (other !== best) other.channel.close('another transport is quicker');
      this.#keep(best.channel);
      this.#announce(best, choice.reason);
      return best.channel;
    }
    const why = [...failures].map(([kind, reason]) => `${kind}: ${reason}`).join('; ') || 'no transport';
    throw new MeshError(
      'unreachable',
      `No way to peer ${target.peer.slice(0, 8)}… (${why}).`,
      'Check that it runs and that it joined the same monitor.',
    );
  }

  /** Every way at once; once one is up the others have `compareMs` to join it. Then each is measured alone, one after the other. */
  async #tryAll(target: Target, round: readonly Transport[], failures: Map<TransportKind, string>): Promise<Found[]> {
    const up: Channel[] = [];
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#stop.signal]);
    const attempts = round.map(async (transport) => {
      try {
        const channel = await this.#tryOne(target, transport, signal);
        if (stop.signal.aborted) channel.close('too late');
        else up.push(channel);
      } catch (cause) {
        failures.set(transport.kind, toMeshError(cause).message);
      }
    });
    const all = Promise.all(attempts);
    await Promise.race([all, ...attempts.map((attempt) => attempt.then(() => (up.length > 0 ? undefined : all)))]);
    if (up.length < round.length) await Promise.race([all, delay(this.#options.compareMs ?? 600)]);
    stop.abort(new MeshError('cancelled', 'Another transport was quicker.', 'Nothing to do.'));
    const found: Found[] = [];
    for (const channel of up) {
      try {
        found.push({
          channel,
          transport: channel.transport,
          ...(await measure(channel, this.#options.probeBytes ?? 256 * 1024, this.#stop.signal)),
        });
      } catch (cause) {
        failures.set(channel.transport, toMeshError(cause).message);
        channel.close('the probe failed');
      }
    }
    return found;
  }

  async #tryOne(target: Target, transport: Transport, signal: AbortSignal): Promise<Channel> {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(this.#dialMs)]);
    const pipe = await raced(transport.dial(target, limited), limited);
    const { identity, token } = this.#options;
    return this.#open(
      pipe,
      await handshake(pipe, { identity, token, isDialer: true, expected: target.peer, signal: limited }),
    );
  }

  #open(pipe: Pipe, peer: PeerId): Channel {
    const channel: Channel = new Channel(pipe, {
      peer,
      handlers: this.#handlers,
      onClosed: (error) => this.#forget(channel, error),
      onRejected: (reason) => this.#options.emit({ kind: 'frame.rejected', peer, reason }),
      ...(this.#options.mux ? { mux: this.#options.mux } : {}),
    });
    return channel;
  }

  #keep(channel: Channel): void {
    if (!channel.isOpen) return; // it died while it was compared; whoever asks over it is told
    const channels = this.#channels.get(channel.peer) ?? [];
    channels.push(channel);
    this.#channels.set(channel.peer, channels);
  }

  #announce(found: Found, reason: string): void {
    const { emit } = this.#options;
    const { peer } = found.channel;
    const before = this.#lastTransport.get(peer);
    if (before && before !== found.transport)
      emit({ kind: 'link.moved', peer, from: before, to: found.transport, reason });
    else
      emit({
        kind: 'link.up',
        peer,
        transport: found.transport,
        reason,
        rttMs: found.rttMs,
        bytesPerSecond: found.bytesPerSecond,
      });
    this.#lastTransport.set(peer, found.transport);
  }

  #forget(channel: Channel, error: MeshError): void {
    const channels = this.#channels.get(channel.peer);
    const at = channels?.indexOf(channel) ?? -1;
    if (!channels || at < 0) return;
    channels.splice(at, 1);
    this.#past.bytesIn += channel.bytesIn;
    this.#past.bytesOut += channel.bytesOut;
    if (channels.length === 0) this.#channels.delete(channel.peer);
    if (this.#stop.signal.aborted) return;
    this.#options.emit({ kind: 'link.down', peer: channel.peer, transport: channel.transport, reason: error.message });
  }

  get #dialMs(): number {
    return this.#options.dialMs ?? 8_000;
  }
}

/** Best round trip of some pings, best rate of some transfers: what the link can do, not what else the machine did meanwhile. */
async function measure(
  channel: Channel,
  probeBytes: number,
  signal: AbortSignal,
): Promise<{ rttMs: number; bytesPerSecond: number }> {
  let rttMs = Infinity;
  for (let i = 0; i < PINGS; i += 1) rttMs = Math.min(rttMs, await channel.ping(4_000));
  const bytes = new Map([['bytes', { dtype: 'u8' as const, shape: [probeBytes], data: new Uint8Array(probeBytes) }]]);
  let bestMs = Infinity;
  for (let i = 0; i < PROBES; i += 1) {
    const started = performance.now();
    await channel.request('link.probe', {}, { tensors: bytes, deadlineMs: 4_000, signal });
    bestMs = Math.min(bestMs, performance.now() - started);
  }
  return { rttMs, bytesPerSecond: probeBytes / (Math.max(bestMs - rttMs, bestMs / 4) / 1_000) };
}

function raced<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(toMeshError(signal.reason));
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  return Promise.race([promise, aborted]).finally(() => signal.removeEventListener('abort', abort));
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
