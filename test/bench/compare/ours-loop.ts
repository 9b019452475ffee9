// A training loop of the product's own kernels that leaves everything on the GPU and reads the loss once a batch of steps, as the
// peers are measured: linear, relu, linear, cross-entropy, AdamW. What the kernels can do, not what the product does.
import type { Slice } from '../../../runtime/gpu/buffers.ts';
import type { Gpu, Recorder } from '../../../runtime/gpu/gpu.ts';
import { matmulNn, matmulNt, matmulTn, matmulUses } from '../../../runtime/gpu/matmul.ts';
import {
  activate,
  activateBackward,
  activationUses,
  adamw,
  adamwUse,
  biasBackward,
  biasBackwardUse,
  crossEntropy,
  crossEntropyUse,
} from '../../../runtime/gpu/ops.ts';
import { LEARNING_RATE, initialWeights, type Samples, type Sizes, type Training } from './measure.ts';

const BETA1 = 0.9;
const BETA2 = 0.999;
/** Bindings begin at multiples of this. */
const ALIGN = 256;

export async function trainOnGpu(gpu: Gpu, [C, H, V]: Sizes, B: number, samples: Samples): Promise<Training> {
  const held: Slice[] = [];
  const take = (count: number): Slice => {
    const slice = gpu.pool.take(count * 4);
    held.push(slice);
    return slice;
  };
  const counts = { w1: H * C, b1: H, w2: V * H, b2: V };
  const padded = Object.values(counts).map((count) => Math.ceil((count * 4) / ALIGN) * (ALIGN / 4));
  const total = padded.reduce((sum, count) => sum + count, 0);
  // One buffer for all parameters, as a stage has it: one dispatch of the optimizer serves them all.
  const [w, m, v, dw] = [take(total), take(total), take(total), take(total)];
  const part = (whole: Slice, index: number): Slice => ({
    buffer: whole.buffer,
    offset: whole.offset + padded.slice(0, index).reduce((sum, count) => sum + count, 0) * 4,
    bytes: (Object.values(counts)[index] ?? 0) * 4,
  });
  const parts = (whole: Slice) => ({
    w1: part(whole, 0), // (H, C)
    b1: part(whole, 1), // (H)
    w2: part(whole, 2), // (V, H)
    b2: part(whole, 3), // (V)
  });
  const weight = parts(w);
  const gradient = parts(dw);
  const x = take(B * C);
  const y = take(B);
  const [z1, a1, da1, dz1] = [take(B * H), take(B * H), take(B * H), take(B * H)];
  const [logits, dlogits] = [take(B * V), take(B * V)];
  const [loss, correct] = [take(B), take(B)];
  const flag = take(1); // stays 0: gradients are not checked here

  const products = matmulUses(gpu.description, [
    { product: 'nt', bias: true, M: B, N: H, K: C },
    { product: 'nt', bias: true, M: B, N: V, K: H },
    { product: 'tn', M: V, N: H, K: B },
    { product: 'nn', M: B, N: H, K: V },
    { product: 'tn', M: H, N: C, K: B },
  ]);
  await gpu.warm([...products, ...activationUses('relu'), biasBackwardUse, crossEntropyUse, adamwUse]);
  await gpu.submit((recorder) => {
    for (const slice of [w, m, v, dw, flag]) recorder.clear(slice);
  });
  await gpu.submit((recorder) => {
    const upload = (to: Slice, values: Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>): void =>
      recorder.write(to, new Uint8Array(values.buffer));
    upload(x, samples.x);
    upload(y, samples.y);
    upload(weight.w1, initialWeights(C, H, 5));
    upload(weight.w2, initialWeights(H, V, 6));
  });

  let taken = 0;
  function step(recorder: Recorder): void {
    taken += 1;
    matmulNt(recorder, z1, x, weight.w1, weight.b1, { M: B, N: H, K: C });
    activate(recorder, 'relu', a1, z1, B * H);
    matmulNt(recorder, logits, a1, weight.w2, weight.b2, { M: B, N: V, K: H });
    crossEntropy(recorder, { dlogits, loss, correct }, logits, y, { M: B, V, scale: 1 / B });
    matmulTn(recorder, gradient.w2, dlogits, a1, { M: V, N: H, K: B });
    biasBackward(recorder, gradient.b2, dlogits, { M: B, N: V });
    matmulNn(recorder, da1, dlogits, weight.w2, { M: B, N: H, K: V });
    activateBackward(recorder, 'relu', dz1, da1, z1, B * H);
    matmulTn(recorder, gradient.w1, dz1, x, { M: H, N: C, K: B });
    biasBackward(recorder, gradient.b1, dz1, { M: B, N: H });
    adamw(recorder, { w, m, v, dw }, flag, {
      count: total,
      beta1: BETA1,
      beta2: BETA2,
      gain1: 1 - BETA1,
      gain2: 1 - BETA2,
      eps: 1e-8,
      keep: 1,
      rate: LEARNING_RATE / (1 - BETA1 ** taken),
      correction: Math.sqrt(1 - BETA2 ** taken),
      gradientScale: 1,
    });
  }

  return {
    async run(steps) {
      const [bytes] = await gpu.submit((recorder) => {
        for (let i = 0; i < steps; i++) step(recorder);
        recorder.read(loss);
      });
      return new Float32Array(bytes?.buffer ?? new ArrayBuffer(0)).reduce((sum, row) => sum + row, 0) / B;
    },
    end() {
      for (const slice of held) gpu.pool.release(slice);
    },
  };
}
