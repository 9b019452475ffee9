// npm run bench -- NAME [--json]: one benchmark, one JSON line with its figures and its method.
import { parseArgs } from 'node:util';

const BENCHES: Record<string, () => Promise<() => Promise<object>>> = {
  matmul: async () => (await import('./matmul.ts')).benchMatmul,
  link: async () => (await import('./link.ts')).benchLink,
  pipeline: async () => (await import('./pipeline.ts')).benchPipeline,
};

const usage = `npm run bench -- ${Object.keys(BENCHES).join('|')} [--json]`;

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    strict: false,
    options: { json: { type: 'boolean' }, help: { type: 'boolean' } },
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
  const result = await (await load())();
  console.log(values.json === true ? JSON.stringify(result) : JSON.stringify(result, null, 2));
  return 0;
}

process.exit(await main());
