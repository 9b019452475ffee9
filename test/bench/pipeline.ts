// Two stages in two processes, a core each, against the same model whole in one process on one core: what a second machine of the same
// kind would bring. The two take turns, round after round. How a round is run is pipeline/run.ts.
import { availableParallelism, loadavg } from 'node:os';
import { parseRunConfig } from '../../runtime/train/config.ts';
import { isText } from '../../runtime/train/language.ts';
import { theoreticalIdle } from '../../runtime/train/pipeline-schedule.ts';
import { alone, pipelined, round3, type AloneRate, type PipelineRate } from './pipeline/run.ts';

const ROUNDS = 3;

interface Case {
  name: string;
  config: Record<string, unknown>;
  steps: number;
  /** Before them, not counted. */
  warmSteps: number;
}

const GPT = {
  ...{ model: { family: 'gpt2', n_layer: 4, n_embd: 128, n_head: 4, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 } },
  ...{ data: { text: 'sotu', tokenizer: 'char', contextLength: 64 }, batch: 192, microbatch: 12, evalRows: 8 },
  ...{ optimizer: { name: 'adamw', lr: 0.001 } },
};
const mlp = (sizes: number[], batch: number): Record<string, unknown> => ({
  ...{ model: { family: 'mlp', sizes }, batch, microbatch: batch / 4, evalRows: 500 },
  ...{ optimizer: { name: 'sgd', lr: 0.02, momentum: 0.9 }, inflight: 4 },
});

const CASES: readonly Case[] = [
  { name: 'gpt2 4x128, 1f1b', config: { ...GPT, pipeline: '1f1b' }, steps: 3, warmSteps: 1 },
  { name: 'gpt2 4x128, 3 under way', config: { ...GPT, inflight: 3 }, steps: 3, warmSteps: 1 },
  { name: 'mlp 784-64-10', config: mlp([784, 64, 10], 128), steps: 150, warmSteps: 15 },
  { name: 'mlp 784-256-10', config: mlp([784, 256, 10], 256), steps: 100, warmSteps: 10 },
];

const METHOD =
  `sync, f32, batch and microbatch as given. Alone: one process on core 0, its compute worker asked directly, all microbatches of a step at ` +
  `once, no mesh. Pipeline: two servers (node/serve.ts) with a stage each, on core 0 and core 1, and the client (node/train.ts) as a third ` +
  `process on core 0, as a user would have it on one of the two machines; the monitor is not pinned; links are TCP on this machine. ` +
  `Pinned by taskset, LP_NUM_THREADS=1. Rates: rows of the counted steps by the clock of the process that drives. Ratio: of the two ` +
  `rates of a round; the one given is the median of the rounds, who is first alternates. cpuMs: processor time of each process for a row; ` +
  `cpuRatio: what these allow, alone / (the core with more of it), whatever else the machine does. Idle: share of the time of the counted ` +
  `steps in which a stage's compute worker had nothing to do, as each server reports it every second; theory: (S - 1) / (M + S - 1).`;

export interface PipelineOptions {
  rounds?: unknown;
  only?: unknown;
}

export async function benchPipeline(options: PipelineOptions = {}): Promise<object> {
  const rounds = options.rounds === undefined ? ROUNDS : Number(options.rounds);
  const only = options.only === undefined ? '' : String(options.only);
  const cases: object[] = [];
  for (const each of CASES) if (each.name.includes(only)) cases.push(await measure(each, rounds));
  return { bench: 'pipeline', method: METHOD, cores: availableParallelism(), loadAverage: loadavg()[0], cases };
}

interface Round {
  ratio: number;
  cpuRatio: number;
  alone: AloneRate;
  pipeline: PipelineRate;
}

async function measure({ name, config, steps, warmSteps }: Case, rounds: number): Promise<object> {
  const document = { seed: 1, epochs: 100, deadlineMs: 120_000, ...config, maxSteps: warmSteps + steps };
  const { batch, microbatch, stages, data } = parseRunConfig(document);
  const results: Round[] = [];
  for (let round = 0; round < rounds; round += 1) {
    let whole = round % 2 === 0 ? await alone(document, warmSteps, batch) : null;
    const pipeline = await pipelined(document, warmSteps, batch);
    whole ??= await alone(document, warmSteps, batch);
    const { front = 0, back = 0, client = 0 } = pipeline.cpuMs;
    const ratio = round3(pipeline.rowsPerSecond / whole.rowsPerSecond);
    const cpuRatio = round3(whole.cpuMs / Math.max(front + client, back));
    results.push({ ratio, cpuRatio, alone: whole, pipeline });
    console.error(`pipeline: ${name}, round ${round + 1} of ${rounds}: ${JSON.stringify(results.at(-1))}`);
  }
  const microbatches = Math.ceil(batch / microbatch);
  return {
    ...{ model: name, batch, microbatch, steps },
    ...(isText(data) ? { tokensPerRow: data.contextLength } : {}),
    ratio: median(results.map((result) => result.ratio)),
    cpuRatio: median(results.map((result) => result.cpuRatio)),
    theory: {
      idle: round3(theoreticalIdle(stages.length, microbatches)),
      ratio: round3(stages.length * (1 - theoreticalIdle(stages.length, microbatches))),
    },
    rounds: results,
  };
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
