// Training agrees with PyTorch (test/golden/make_golden.py) step by step: gradients, weights and losses within 1e-5 of each
// tensor's norm, whole and cut into stages in every way.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import test from 'node:test';
import { optimizerSpecSchema } from '../../runtime/compute.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { layerCount } from '../../runtime/model/spec.ts';
import { decode } from '../../runtime/safetensors.ts';
import type { Tensor } from '../../runtime/tensor.ts';
import { relativeError } from '../reference/kernels.ts';
import { splits } from '../support/splits.ts';
import { Pipeline, copyOf, floats, testCompute } from './harness.ts';

const TOLERANCE = 1e-5;
const folder = new URL('../golden/', import.meta.url);
const compute = testCompute();

for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
  const { tensors, metadata } = decode(new Uint8Array(readFileSync(new URL(file, folder))));
  const get = (name: string): Tensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`${file} lacks ${name}`);
    return copyOf(tensor);
  };
  const model = modelSpecSchema.parse(JSON.parse(metadata.model ?? ''));
  const optimizer = optimizerSpecSchema.parse(JSON.parse(metadata.optimizer ?? ''));
  const layers = layerCount(model);

  for (const counts of splits(layers)) {
    test(`${file} split into ${counts.join('+')}`, async () => {
      const pipeline = await Pipeline.open(compute, { model, from: 0, to: layers, seed: 1, optimizer }, counts);
      const names = [...tensors.keys()]
        .filter((name) => name.startsWith('start.'))
        .map((name) => name.slice('start.'.length));
      await pipeline.write('weights', new Map(names.map((name) => [name, get(`start.${name}`)])));
      for (let step = 0; step < Number(metadata.steps); step++) {
        const x = get(`${step}.x`);
        const rows = x.shape[0] ?? 1;
        const { loss } = await pipeline.train(`${step}`, x, get(`${step}.y`), 1 / rows, true);
        const wantedLoss = floats(get(`${step}.loss`))[0] ?? Number.NaN;
        assert.ok(
          Math.abs(loss - wantedLoss) <= TOLERANCE * Math.abs(wantedLoss),
          `loss ${loss}, PyTorch ${wantedLoss}`,
        );
        const gradients = await pipeline.read('gradients');
        const norm = await pipeline.step();
        const weights = await pipeline.read('weights');
        let squares = 0;
        for (const name of names) {
          const wanted = floats(get(`${step}.gradient.${name}`));
          squares += wanted.reduce((sum, value) => sum + value * value, 0);
          const gradientError = relativeError(floats(gradients.get(name)), wanted);
          assert.ok(gradientError <= TOLERANCE, `step ${step}, gradient of ${name}: ${gradientError}`);
          const weightError = relativeError(floats(weights.get(name)), floats(get(`${step}.weight.${name}`)));
          assert.ok(weightError <= TOLERANCE, `step ${step}, ${name}: ${weightError}`);
        }
        assert.ok(Math.abs(norm - Math.sqrt(squares)) <= TOLERANCE * norm, `gradient norm ${norm}`);
      }
      await pipeline.close();
    });
  }
}
