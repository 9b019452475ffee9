// How quick a link is, by each transport: MB/s and round trips through the whole stack (schema, frames, credits, chunks, pipe).
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism, cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { joinFromNode } from '../../node/peer.ts';
import type { TransportKind } from '../../runtime/events.ts';
import { createIdentity } from '../../runtime/mesh/identity.ts';
import { Links } from '../../runtime/mesh/links.ts';
import { LocalHub } from '../../runtime/mesh/local.ts';
import type { Target } from '../../runtime/mesh/transport.ts';
import type { Tensors } from '../../runtime/tensor.ts';
import type { MessageKind } from '../../runtime/wire/messages.ts';
import { echo } from './link-far.ts';

const MB = 1 << 20;
const TOTAL = 64;
const IN_FLIGHT = 8;
const ROUNDS = 3;
const TRIPS = 200;
const DEADLINE_MS = 60_000;
const METHOD =
  `MB/s: ${TOTAL} requests of 1 MB, ${IN_FLIGHT} in flight, each answered without data; ${ROUNDS} rounds after one to warm up ` +
  `(1 MB = 2^20 bytes). Round trip: a tensor echoed, one request at a time, ${TRIPS} after 20 to warm up, milliseconds. ` +
  'Two Node processes on loopback, the monitor in a third (relay: every byte passes it); local: one process.';

interface Ends {
  ask(kind: 'link.probe' | 'stage.infer', tensors: Tensors): Promise<unknown>;
  close(): Promise<void>;
}

export async function benchLink(): Promise<object> {
  const results: Record<string, object> = {};
  const monitor = await far('monitor');
  try {
    const { joinUrl } = monitor.hello as { joinUrl: string };
    const ways: [TransportKind, () => Promise<Ends>][] = [
      ['local', withinProcess],
      ...(['tcp', 'webrtc', 'relay'] as const).map((kind): [TransportKind, () => Promise<Ends>] => [
        kind,
        () => betweenProcesses(joinUrl, kind),
      ]),
    ];
    for (const [kind, open] of ways) {
      const ends = await open();
      try {
        results[kind] = await measure(ends);
      } finally {
        await ends.close();
      }
    }
  } finally {
    monitor.child.kill();
  }
  const [cpu] = cpus();
  return {
    bench: 'link',
    method: METHOD,
    machine: `${availableParallelism()} cores, ${cpu?.model ?? 'unknown'}, Node ${process.version}`,
    results,
  };
}

const bytesOf = (size: number): Tensors => new Map([['x', { dtype: 'u8', shape: [size], data: new Uint8Array(size) }]]);

async function measure({ ask }: Ends): Promise<object> {
  const data = bytesOf(MB);
  const rates: number[] = [];
  for (let round = 0; round <= ROUNDS; round += 1) {
    let left = TOTAL;
    const started = performance.now();
    const lane = async (): Promise<void> => {
      while (left-- > 0) await ask('link.probe', data);
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, lane));
    if (round > 0) rates.push((TOTAL / (performance.now() - started)) * 1_000);
  }
  return {
    megabytesPerSecond: { best: rounded(Math.max(...rates)), median: rounded(quantile(rates, 0.5)) },
    roundTrip1KbMs: await roundTrips(ask, 1 << 10),
    roundTrip64KbMs: await roundTrips(ask, 64 << 10),
  };
}

async function roundTrips(ask: Ends['ask'], size: number): Promise<object> {
  const data = bytesOf(size);
  const times: number[] = [];
  for (let i = 0; i < TRIPS + 20; i += 1) {
    const started = performance.now();
    await ask('stage.infer', data);
    if (i >= 20) times.push(performance.now() - started);
  }
  return {
    min: rounded(Math.min(...times)),
    median: rounded(quantile(times, 0.5)),
    p95: rounded(quantile(times, 0.95)),
  };
}

const quantile = (values: readonly number[], q: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))] ?? NaN;
const rounded = (value: number): number => Number(value.toPrecision(3));

const BODIES = { 'link.probe': {}, 'stage.infer': { uid: 'front.0.0.0', run: 'bench', route: [] } } as const;

const asker =
  (links: Links, target: Target): Ends['ask'] =>
  (kind, tensors) =>
    links.request<MessageKind>(target, kind, BODIES[kind] as never, { tensors, deadlineMs: DEADLINE_MS });

async function withinProcess(): Promise<Ends> {
  const hub = new LocalHub();
  const make = async (): Promise<[Links, Target]> => {
    const identity = await createIdentity();
    const transports = [hub.transport(identity.peer)];
    const links = new Links({ identity, token: 'bench', transports, handlers: { ...echo }, emit: () => undefined });
    return [links, { peer: identity.peer, addresses: [] }];
  };
  const [[near], [farLinks, target]] = [await make(), await make()];
  return {
    ask: asker(near, target),
    close: async () => {
      await Promise.all([near.close('bench over'), farLinks.close('bench over')]);
    },
  };
}

async function betweenProcesses(joinUrl: string, kind: TransportKind): Promise<Ends> {
  const { child, hello } = await far(joinUrl, kind);
  const near = await joinFromNode({
    join: joinUrl,
    role: 'client',
    host: '127.0.0.1',
    port: 0,
    emit: () => undefined,
    signal: new AbortController().signal,
    allow: [kind],
  });
  return {
    ask: asker(near.links, hello as Target),
    close: async () => {
      await near.close('bench over');
      child.kill();
    },
  };
}

/** Starts the other process and waits for its first words. */
async function far(...args: string[]): Promise<{ child: ChildProcess; hello: unknown }> {
  const child = fork(fileURLToPath(new URL('link-far.ts', import.meta.url)), args);
  const ended = once(child, 'exit').then(() => {
    throw new Error(`the other process of the benchmark ended: ${args.join(' ')}`);
  });
  const [hello] = (await Promise.race([once(child, 'message'), ended])) as [unknown];
  ended.catch(() => undefined); // it ends with the benchmark
  return { child, hello };
}
