// The page of one contender, which its fragment names. The bench calls `globalThis.bench` from outside, case by case.
import { platform } from '../../../web/platform.ts';
import { jax } from './jax.ts';
import { MLP_CASES, measureMatmul, measureMlp, type Contender, type Timing } from './measure.ts';
import { ort } from './ort.ts';
import { ours } from './ours.ts';
import { tfjs } from './tfjs.ts';

export interface PageBench {
  device(): Promise<string>;
  matmul(size: number): Promise<Timing>;
  mlp(name: string): Promise<Timing>;
}

async function adapterName(): Promise<string> {
  const adapter = await (await platform.gpu())?.requestAdapter();
  if (!adapter) throw new Error(`this page has no WebGPU adapter: ${platform.gpuMissing()}`);
  const { vendor, architecture, description } = adapter.info;
  return `${vendor} ${architecture} ${description}`.trim();
}

async function start(name: string): Promise<Contender> {
  switch (name) {
    case 'ours':
      return ours(platform, false);
    case 'ours-loop':
      return ours(platform, true);
    case 'tfjs-webgpu':
      return tfjs('webgpu', await adapterName());
    case 'tfjs-wasm':
      return tfjs('wasm', '');
    case 'ort-webgpu':
      return ort(await adapterName());
    case 'jax-webgpu':
      return jax('webgpu', await adapterName());
    case 'jax-wasm':
      return jax('wasm', '');
    default:
      throw new Error(`there is no contender "${name}"`);
  }
}

const contender = start(location.hash.slice(1));
contender.catch(() => {}); // every call below rejects with it

const bench: PageBench = {
  device: async () => (await contender).device,
  matmul: async (size) => measureMatmul(await contender, size),
  mlp: async (name) => {
    const found = MLP_CASES.find((each) => each.name === name);
    if (!found) throw new Error(`there is no model "${name}"`);
    return measureMlp(await contender, found.sizes, found.batch);
  },
};
Object.assign(globalThis, { bench });
