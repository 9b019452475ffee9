// npm run bench -- NAME [--json]: one benchmark, one JSON line with its figures and its method.
import { parseArgs } from 'node:util';
import { MeshError } from '../../runtime/errors.ts';

interface Options {
  json?: unknown;
  rounds?: unknown;
  only?: unknown;
  quick?: unknown;
}

/** Resolves with what is printed. */
type Bench = (options: Options) => Promise<string>;

const bench =
  <R extends object>(
    run: (options: Options) => Promise<R>,
    show = (result: R) => JSON.stringify(result, null, 2),
  ): Bench =>
  async (options) => {
    const result = await run(options);
    return options.json === true ? JSON.stringify(result) : show(result);
  };

const BENCHES: Record<string, () => Promise<Bench>> = {
  matmul: async () => bench((await import('./matmul.ts')).benchMatmul),
  link: async () => bench((await import('./link.ts')).benchLink),
  average: async () => bench((await import('./average.ts')).benchAverage),
  pipeline: async () => bench((await import('./pipeline.ts')).benchPipeline),
  simulate: async () => bench((await import('./simulate.ts')).benchSimulate),
  compare: async () => {
    const { benchCompare, compareOptions, showCompare } = await import('./compare.ts');
    return bench((options) => benchCompare(compareOptions(options)), showCompare);
  },
  transformer: async () => {
    const { benchTransformer, transformerOptions, showTransformer } = await import('./transformer.ts');
    return bench((options) => benchTransformer(transformerOptions(options)), showTransformer);
  },
};

const usage = `npm run bench -- ${Object.keys(BENCHES).join('|')} [--json]
average also takes --only merge,mlp,transformer and --quick
compare also takes --rounds N (3) and --only NAME,… of its contenders; it installs the peers into test/bench/peers
simulate takes --rounds N (3), as many seeds
transformer takes --rounds N (2), --only NAME,… of its models and kernels, and --quick; LD_LIBRARY_PATH names a faster BLAS for PyTorch`;

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    strict: false,
    options: {
      json: { type: 'boolean' },
      help: { type: 'boolean' },
      rounds: { type: 'string' },
      only: { type: 'string' },
      quick: { type: 'boolean' },
    },
  });
  const [name = ''] = positionals;
  const load = BENCHES[name];
  if (values.help === true) {
    console.log(usage);
    return 0;
  }
  if (!load) {
    console.error(`error: there is no benchmark "${name}"\nfix: ${usage}`);
    return 2;
  }
  try {
    console.log(await (await load())(values));
    return 0;
  } catch (cause) {
    if (!(cause instanceof MeshError && cause.code === 'usage')) throw cause;
    console.error(`error: ${cause.message}\nfix: ${cause.fix}`);
    return 2;
  }
}

process.exit(await main());
