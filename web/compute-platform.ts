/// <reference types="vite/client" />
// The host of the runtime in the compute worker of a page: the page's own, with the texts of the kernels. A page itself never computes, and
// they are a third of what it would load.
import { MeshError } from '../runtime/errors.ts';
import type { Platform } from '../runtime/platform.ts';
import { platform } from './platform.ts';

const files = import.meta.glob<string>('../kernels/*.wgsl', { query: '?raw', import: 'default', eager: true });
const kernels = new Map(
  Object.entries(files).map(([path, text]) => [path.slice('../kernels/'.length, -'.wgsl'.length), text]),
);

export const computePlatform: Platform = {
  ...platform,

  kernelSource(name) {
    const text = kernels.get(name);
    if (text === undefined)
      throw new MeshError('internal', `There is no kernels/${name}.wgsl in this page.`, 'Reload the page.');
    return text;
  },

  kernelNames: () => [...kernels.keys()].sort(),
};
