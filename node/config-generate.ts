// `skein config generate`: a configuration file for each of N federated workers.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { Command } from 'commander';
import { stringify } from 'yaml';
import { z } from 'zod';
import { PLANNER_NAMES } from '../runtime/average-spec.ts';
import { MeshError } from '../runtime/errors.ts';
import { parseWorkerConfig, uidOf, workerConfigSchema } from '../runtime/federated/config.ts';
import { neighbours, topologySchema, type Topology } from '../runtime/federated/topology.ts';
import { command, isOn, option } from './command.ts';
import { readYaml } from './yaml-config.ts';

const OUTER = ['diloco', 'streaming-diloco', 'noloco'] as const;
const METHODS = [...PLANNER_NAMES, ...OUTER] as const;

const schema = z.strictObject({
  workers: z.coerce.number().int().min(1).max(100_000).optional(),
  topology: z.string().optional().transform(parseTopology),
  method: z.enum(METHODS).optional(),
  partition: z.string().optional().transform(parsePartition),
  from: z.string().optional(),
  join: z.string().optional(),
  seed: z.coerce.number().int().min(0).optional(),
  out: z.string().default('.'),
  force: z.unknown().optional().transform(isOn),
});

/** `ring`, `full`, `random:0.5`, or edges such as `0-1,1-2`. */
function parseTopology(text: string | undefined, context: z.RefinementCtx): Topology | undefined {
  if (text === undefined) return undefined;
  const random = /^random(?::(.+))?$/.exec(text);
  const value = random
    ? { random: Number(random[1] ?? 0.5) }
    : /^\d+-\d+(,\d+-\d+)*$/.test(text)
      ? { edges: text.split(',').map((edge) => edge.split('-').map(Number)) }
      : text;
  const parsed = topologySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  context.addIssue({ code: 'custom', message: 'is ring, full, random:P with P from 0 to 1, or edges such as 0-1,1-2' });
  return z.NEVER;
}

/** `iid`, `dirichlet:0.5`, `label:0.7`. */
function parsePartition(text: string | undefined, context: z.RefinementCtx): object | undefined {
  if (text === undefined) return undefined;
  const [kind = '', number = ''] = text.split(':');
  if (kind === 'iid' && number === '') return { kind };
  if (kind === 'dirichlet' && Number(number || 0.5) > 0) return { kind, alpha: Number(number || 0.5) };
  if (kind === 'label' && Number(number) >= 0 && Number(number) <= 1 && number !== '')
    return { kind, share: Number(number) };
  context.addIssue({ code: 'custom', message: 'is iid, dirichlet:ALPHA, or label:SHARE' });
  return z.NEVER;
}

const WORKERS = 3;

const generate = command({
  name: 'generate',
  description: 'Write worker-0.yaml, worker-1.yaml, …: a federated run of N workers, each file for one of them.',
  options: [
    option('--workers <number>', `how many (default: as many as in --from, else ${WORKERS})`),
    option('--topology <shape>', 'ring, full, random:P, or edges such as 0-1,1-2 (default: ring)'),
    option('--method <name>', `how they average: ${METHODS.join(', ')} (default: mpls)`),
    option('--partition <split>', 'iid, dirichlet:ALPHA, or label:SHARE (default: dirichlet:0.5)'),
    option('--from <file>', 'take all that is not said here from this worker file'),
    option('--join <url>', 'write the join link into the files; else give it to each worker with --join'),
    option('--seed <number>', 'of weights, partition and topology (default: 1)'),
    option('--out <folder>', 'where the files go (default: here)'),
    option('--force', 'write over files that are there'),
  ],
  schema,
  examples: [
    'skein config generate --workers 3 --topology ring',
    'skein config generate --workers 8 --topology full --method streaming-diloco --out run/',
    'skein config generate --workers 10 --topology random:0.5 --partition label:0.7 --from base.yaml --force',
  ],
  run: async ({ workers: count, topology, method, partition, from, join, seed, out, force }, { say, print }) => {
    const { workers = count ?? WORKERS, ...base } =
      from === undefined ? {} : withoutSelf(readYaml(from, workerConfigSchema), count);
    const average = method === undefined ? {} : { average: averageOf(base, method) };
    const document = {
      ...base,
      ...(join === undefined ? {} : { join }),
      workers,
      ...(topology === undefined ? {} : { topology }),
      ...(partition === undefined ? {} : { partition }),
      ...average,
      ...(seed === undefined ? {} : { seed }),
    };
    const first = parseWorkerConfig({ ...document, worker: 0 });
    const lists = neighbours(first.topology, workers, first.seed);
    const files = Array.from({ length: workers }, (_, worker) => ({
      file: path.join(out, `worker-${worker}.yaml`),
      config: { ...first, worker },
      others: (lists[worker] ?? []).map((other) => uidOf(first, other)),
    }));
    await prepare(out, force ? [] : files.map(({ file }) => file));
    for (const { file, config, others } of files) {
      const { isVocabularyOpen, ...whole } = config;
      // A vocabulary that the tokenizer decides stays open in the file.
      const model = { ...whole.model, ...(isVocabularyOpen ? { vocab_size: 'auto' } : {}) };
      const text = `# Worker ${config.worker} of ${workers}; its neighbours: ${others.join(', ') || 'none'}.\n${stringify({ ...whole, model })}`;
      await write(file, text, force);
      print(file);
    }
    say(`Start each with: node node/serve.ts --join LINK --worker --config ${files[0]?.file ?? ''}`);
  },
});

/** What all workers have in common, and how many they are unless that was given. */
function withoutSelf(value: object, given?: number): { workers?: number } & Record<string, unknown> {
  const { worker: _, ...rest } = value as { worker: number; workers: number };
  return given === undefined ? rest : { ...rest, workers: given };
}

/** What the base says of averaging, with the method changed. */
function averageOf(base: object, method: (typeof METHODS)[number]): object {
  const { average = {} } = base as { average?: Record<string, unknown> };
  const { planner: _, outer: __, ...rest } = average;
  const isOuter = (OUTER as readonly string[]).includes(method);
  return { ...rest, ...(isOuter ? { outer: { kind: method } } : { planner: method }) };
}

/** The folder, with none of these files in it: all of them are written, or none. */
async function prepare(folder: string, files: readonly string[]): Promise<void> {
  const there = files.find((file) => existsSync(file));
  if (there !== undefined) throw isThere(there);
  try {
    await mkdir(folder, { recursive: true });
  } catch (cause) {
    throw cannotWrite(folder, cause);
  }
}

const isThere = (file: string): MeshError =>
  new MeshError('bad-file', `${file} is there already.`, 'Name another folder with --out, or add --force.');
const cannotWrite = (file: string, cause: unknown): MeshError =>
  new MeshError(
    'bad-file',
    `${file} cannot be written: ${(cause as Error).message}.`,
    'Name a folder that you may write to with --out.',
    { cause },
  );

async function write(file: string, text: string, force: boolean): Promise<void> {
  try {
    await writeFile(file, text, { flag: force ? 'w' : 'wx' });
  } catch (cause) {
    // Another command may have written it meanwhile.
    throw (cause as NodeJS.ErrnoException).code === 'EEXIST' ? isThere(file) : cannotWrite(file, cause);
  }
}

export const config = new Command('config').description('Configuration files.').exitOverride().addCommand(generate);
