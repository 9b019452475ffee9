// `npm run bench -- average`: what averaging costs training (a full merge of a 10 M-parameter model from three peers, with and without, by
// turns), and what low-communication training saves beside an all-reduce in every step, losses included. Over real links.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { TestContext } from 'node:test';
import { joinFromNode } from '../../node/peer.ts';
import { platform } from '../../node/platform.ts';
import { prepareWorker } from '../../node/worker.ts';
import { averageSpecSchema } from '../../runtime/average-spec.ts';
import { storeOf } from '../../runtime/average/averaging.ts';
import type { MeshEvent } from '../../runtime/events.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { StageHost } from '../../runtime/server/host.ts';
import { f32Tensor, i32Tensor } from '../../runtime/tensor.ts';
import { parseUid, runIdSchema } from '../../runtime/wire/ids.ts';
import { someMnist, startWorkers, type Scope } from '../federated/harness.ts';
import { noise } from '../reference/kernels.ts';
import { startMonitor } from '../signaling/helpers.ts';

interface Options {
  rounds?: unknown;
  only?: unknown;
  quick?: unknown;
}

export async function benchAverage(options: Options): Promise<object> {
  const only = typeof options.only === 'string' ? options.only.split(',') : ['merge', 'mlp', 'transformer'];
  const isQuick = options.quick === true;
  const result: Record<string, unknown> = { benchmark: 'average', method: METHOD };
  if (only.includes('merge')) result.merge = await scoped((t) => mergeCost(t, isQuick));
  if (only.includes('mlp')) result.mlp = await scoped((t) => lowCommunication(t, 'mlp', isQuick ? 200 : 1_200));
  if (only.includes('transformer'))
    result.transformer = await scoped((t) => lowCommunication(t, 'transformer', isQuick ? 100 : 900));
  return result;
}

const METHOD =
  'merge: one process trains (one thread of the software driver), three others serve a replica each over tcp; whole cycles of the averager (from round to round, as far apart as the default share of 4 % demands), each followed by equally long without it. costShare compares samples/s of whole cycles with those of the same cycles from 5 s after the round on, when the averager rests; costShareByTurns with those of the times without it, minutes apart, so that it tells no less than the machine itself fluctuates by. mlp, transformer: two workers with IID shares in one process, a stage each, links over tcp; bytes are those of layers received; losses are means over the workers on held-out data.';

async function scoped<T>(work: (t: Scope) => Promise<T>): Promise<T> {
  const ends: (() => unknown)[] = [];
  try {
    return await work({ after: (end) => void ends.push(end as () => unknown) });
  } finally {
    for (const end of ends.reverse()) await end();
  }
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;

/** 784 · 2816 + 2816² + 2816 · 10 and biases: 10.2 million parameters. */
const SIZES = [784, 2816, 2816, 10];
const BATCH = 64;
/** After a round: what it left behind (memory to give back, caches) is its own cost. */
const SETTLED_MS = 5_000;

async function mergeCost(t: Scope, isQuick: boolean): Promise<object> {
  process.env.LP_NUM_THREADS ??= '1';
  const model = { family: 'mlp' as const, sizes: SIZES, activation: 'relu' as const };
  const { parameterBytes, parameters } = stageInfo(model, 0, 3);
  const average = averageSpecSchema.parse({ planner: 'appg', intervalMs: 1 });
  const run = runIdSchema.parse('bench');
  const optimizer = { name: 'sgd' as const, lr: 1e-4, momentum: 0, weightDecay: 0 };
  const store = storeOf(parameterBytes, average);
  const spec = { model, from: 0, to: 3, seed: 1, optimizer, store };
  const body = { run, spec, mode: 'async' as const, accumulate: 1, average };
  const monitor = await startMonitor(t as TestContext);
  await Promise.all([1, 2, 3].map((i) => startPeer(t, monitor.joinUrl, body, `worker.0.${i}.0`)));
  const worker = await platform.startCompute();
  t.after(() => worker.end());
  const { compute } = worker;
  const gpu = await compute.describe();
  const events: MeshEvent[] = [];
  const emit = (event: MeshEvent): void => void events.push(event);
  const stop = new AbortController();
  const link = { host: '127.0.0.1', port: 0, tls: 'off' as const, allow: ['tcp' as const] };
  const peer = await joinFromNode({ join: monitor.joinUrl, role: 'server', emit, signal: stop.signal, ...link });
  t.after(() => peer.close('done'));
  const host = new StageHost({
    ...{ self: peer.id, host: 'node' as const, compute, gpu, ask: peer.ask, emit },
    isConnected: (id) => peer.isConnected(id),
    addresses: () => peer.addresses(),
    traffic: () => peer.links.traffic(),
  });
  t.after(() => host.close());
  const stage = host.add(parseUid('worker.0.0.0').uid);
  const { handle, averaging } = await stage.open(body, peer.id);
  const records = await peer.monitor?.discover('worker.');
  const replicas = (records ?? []).flatMap((record) =>
    record.kind === 'stage' ? [{ uid: record.name, peer: record.peer, addresses: record.addresses }] : [],
  );
  const averager = averaging?.averager;
  if (!averager || replicas.length !== 3) throw new Error(`${replicas.length} peers are there, not three`);

  const step = async (): Promise<void> => {
    const x = f32Tensor([BATCH, 784], noise(BATCH * 784, 7));
    const y = i32Tensor(
      [BATCH],
      Int32Array.from({ length: BATCH }, (_, i) => i % 10),
    );
    await Promise.all([
      compute.loss(handle, x, y, { scale: 1 / BATCH, train: true, accumulate: true }),
      compute.step(handle),
    ]);
  };
  /** When each step ended. */
  const ends: number[] = [];
  const trainUntil = async (isOver: () => boolean): Promise<void> => {
    while (!isOver()) {
      await step();
      ends.push(performance.now());
    }
  };
  /** Samples a second from after `from` to `to`. */
  const rate = (from: number, to: number): number =>
    (ends.filter((end) => end > from && end <= to).length * BATCH) / ((to - from) / 1_000);
  // From the begin of one round to the begin of the next: the whole cycle, with all of its rest.
  const cycle = async (): Promise<{ from: number; roundEnd: number; to: number }> => {
    const beside = new AbortController();
    const from = performance.now();
    let roundEnd = NaN;
    let to = NaN;
    const rest = async (ms: number): Promise<void> => {
      roundEnd = performance.now();
      await new Promise((resolve) => setTimeout(resolve, ms));
      to = performance.now();
      beside.abort();
    };
    const rounds = averager.run(() => replicas, beside.signal, rest);
    await trainUntil(() => beside.signal.aborted);
    await rounds;
    return { from, roundEnd, to };
  };
  // Until all kernels are compiled.
  for (let i = 0; i < 3; i += 1) {
    await step();
    await averager.round(replicas, stop.signal);
  }
  await cycle(); // the pace comes of two rounds
  const without: number[] = [];
  const with_: number[] = [];
  const resting: number[] = [];
  const apartMs: number[] = [];
  const besideMs: number[] = [];
  for (let i = 0; i < (isQuick ? 1 : 3); i += 1) {
    const { from, roundEnd, to } = await cycle();
    with_.push(rate(from, to));
    resting.push(rate(roundEnd + SETTLED_MS, to));
    apartMs.push(to - from);
    besideMs.push(roundEnd - from);
    const until = performance.now() + (to - from);
    const start = performance.now();
    await trainUntil(() => performance.now() >= until);
    without.push(rate(start, until));
  }
  // By itself, with nothing else to do: what one costs.
  const alone: number[] = [];
  for (let i = 0; i < 3; i += 1) {
    const started = performance.now();
    await averager.round(replicas, stop.signal);
    alone.push(performance.now() - started);
  }
  stop.abort();
  const merged = events.flatMap((event) => (event.kind === 'layers.merged' ? [event] : []));
  return {
    parameters: parameters.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    peers: 3,
    samplesPerSecondWithout: without.map(Math.round),
    samplesPerSecondWith: with_.map(Math.round),
    samplesPerSecondWhileResting: resting.map(Math.round),
    costShare: round4(1 - mean(with_) / mean(resting)),
    costShareByTurns: round4(1 - mean(with_) / mean(without)),
    secondsFromRoundToRound: apartMs.map((ms) => Math.round(ms / 100) / 10),
    fullMerges: merged.filter(({ peers: of }) => of.length === 3).length,
    bytesPerMerge: merged.at(-1)?.bytes,
    roundMsBesideTraining: Math.round(median(besideMs)),
    roundMsAlone: Math.round(median(alone)),
  };
}

/** A replica in a process of its own, which only serves; ends with the benchmark. */
async function startPeer(t: Scope, join: string, body: object, uid: string): Promise<void> {
  const file = fileURLToPath(new URL('average/peer.ts', import.meta.url));
  const child = fork(file, [join, JSON.stringify(body), uid], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const ended = once(child, 'exit');
  t.after(async () => {
    child.kill();
    await ended;
  });
  const failed = ended.then(() => Promise.reject(new Error(`${uid} ended`)));
  failed.catch(() => undefined); // every child ends at last
  await Promise.race([once(child, 'message'), failed]);
}

const round4 = (value: number): number => Math.round(value * 1e4) / 1e4;

const WORKERS = 2;
const OUTER = { steps: 30 };

/** Against an all-reduce in every step: bytes, and the loss where training ends. */
async function lowCommunication(t: Scope, kind: 'mlp' | 'transformer', steps: number): Promise<object> {
  const base =
    kind === 'mlp'
      ? {
          model: { family: 'mlp', sizes: [784, 64, 10] },
          data: 'mnist',
          batch: 32,
          optimizer: { name: 'sgd', lr: 0.1 },
        }
      : {
          model: { family: 'gpt2', n_layer: 2, n_embd: 32, n_head: 2, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 },
          data: { text: 'sotu', tokenizer: 'char', contextLength: 16 },
          batch: 8,
          optimizer: { name: 'adamw', lr: 0.003, beta2: 0.95, weightDecay: 0.1, decay: 'matrices' },
          clip: 1,
        };
  const methods: Record<string, object> = {
    'all-reduce': { planner: 'all-reduce', defence: 'finite' },
    'streaming-diloco int8': { outer: { kind: 'streaming-diloco', ...OUTER }, format: 'int8' },
    'streaming-diloco int4': { outer: { kind: 'streaming-diloco', ...OUTER }, format: 'int4' },
    'noloco int8': { outer: { kind: 'noloco', ...OUTER }, format: 'int8' },
  };
  const results: { method: string; bytes: number; loss: number; seconds: number }[] = [];
  const prepare = kind === 'mlp' ? await someMnist(60_000, 10_000) : prepareWorker;
  for (const [method, average] of Object.entries(methods)) {
    const workers = await startWorkers(t, prepare);
    const started = performance.now();
    const all = Array.from({ length: WORKERS }, (_, worker) =>
      workers.start({
        ...base,
        ...{
          worker,
          workers: WORKERS,
          topology: 'full',
          partition: { kind: 'iid' },
          maxSteps: steps,
          evalEvery: steps,
          evalRows: 500,
        },
        schedule: { kind: 'linear', final: 0.1 },
        average,
      }),
    );
    const ended = await Promise.all(all.map((one) => one.ended));
    const failed = ended.find((one) => one instanceof Error);
    if (failed instanceof Error) throw failed;
    const losses = await Promise.all(all.map((one) => one.loss));
    const bytes = all.flatMap((one) => one.all('layers.merged')).reduce((sum, event) => sum + event.bytes, 0);
    const seconds = Math.round((performance.now() - started) / 100) / 10;
    results.push({ method, bytes, loss: losses.reduce((sum, loss) => sum + loss, 0) / WORKERS, seconds });
  }
  const [reference] = results;
  return {
    workers: WORKERS,
    steps,
    methods: results.map(({ method, bytes, loss, seconds }) => ({
      method,
      bytes,
      fewerBytes: round4((reference?.bytes ?? NaN) / bytes),
      heldOutLoss: round4(loss),
      lossAgainstAllReduce: round4(loss / (reference?.loss ?? NaN) - 1),
      seconds,
    })),
  };
}
