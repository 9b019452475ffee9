// TensorFlow.js on WebGPU or WASM: its eager operations, its own optimizer and its own cross-entropy.
import { LEARNING_RATE, initialWeights, type Contender } from './measure.ts';

// Of the peer's API, what is used here; the package is not there when this file is checked.
interface TfTensor {
  data(): Promise<ArrayLike<number>>;
  dispose(): void;
  matMul(other: TfTensor): TfTensor;
  add(other: TfTensor): TfTensor;
  relu(): TfTensor;
}
interface Tf {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  getBackend(): string;
  tensor(values: ArrayLike<number>, shape: number[]): TfTensor;
  tensor1d(values: ArrayLike<number>, dtype: 'int32'): TfTensor;
  oneHot(indices: TfTensor, depth: number): TfTensor;
  variable(initial: TfTensor): TfTensor;
  zeros(shape: number[]): TfTensor;
  matMul(a: TfTensor, b: TfTensor): TfTensor;
  losses: { softmaxCrossEntropy(labels: TfTensor, logits: TfTensor): TfTensor };
  train: { adam(rate: number): { minimize(loss: () => TfTensor, wantsCost: true): TfTensor; dispose(): void } };
  wasm?: { setWasmPaths(prefix: string): void; getThreadsCount(): number };
}

const BASE = '/peers/@tensorflow/';

function script(src: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const element = document.createElement('script');
    element.src = src;
    element.addEventListener('load', () => resolve());
    element.addEventListener('error', () => reject(new Error(`${src} could not be loaded`)));
    document.head.append(element);
  });
}

export async function tfjs(backend: 'webgpu' | 'wasm', adapter: string): Promise<Contender> {
  await script(`${BASE}tfjs/dist/tf.es2017.min.js`);
  await script(`${BASE}tfjs-backend-${backend}/dist/tf-backend-${backend}.es2017.min.js`);
  const { tf } = globalThis as unknown as { tf: Tf };
  tf.wasm?.setWasmPaths(`${BASE}tfjs-backend-wasm/dist/`);
  if (!(await tf.setBackend(backend))) throw new Error(`TensorFlow.js has no ${backend} here`);
  await tf.ready();
  return {
    device: backend === 'webgpu' ? adapter : `WASM, threads: ${tf.wasm?.getThreadsCount() ?? 1}`,
    isTransposed: false,
    async matmul(size, aValues, bValues) {
      const a = tf.tensor(aValues, [size, size]);
      const b = tf.tensor(bValues, [size, size]);
      let last: TfTensor | undefined;
      return {
        async run(times) {
          for (let i = 0; i < times; i++) {
            last?.dispose();
            last = tf.matMul(a, b);
          }
          await last?.data();
        },
        result: () => last?.data() ?? Promise.resolve([]),
        end() {
          for (const tensor of [a, b, last]) tensor?.dispose();
        },
      };
    },
    async mlp([inputs, hidden, classes], batch, samples) {
      const x = tf.tensor(samples.x, [batch, inputs]);
      const labels = tf.oneHot(tf.tensor1d(samples.y, 'int32'), classes);
      const w1 = tf.variable(tf.tensor(initialWeights(inputs, hidden, 5), [inputs, hidden]));
      const b1 = tf.variable(tf.zeros([hidden]));
      const w2 = tf.variable(tf.tensor(initialWeights(hidden, classes, 6), [hidden, classes]));
      const b2 = tf.variable(tf.zeros([classes]));
      const optimizer = tf.train.adam(LEARNING_RATE);
      const loss = (): TfTensor =>
        tf.losses.softmaxCrossEntropy(labels, x.matMul(w1).add(b1).relu().matMul(w2).add(b2));
      return {
        async run(steps) {
          for (let i = 1; i < steps; i++) optimizer.minimize(loss, true).dispose();
          const last = optimizer.minimize(loss, true);
          const [value = NaN] = Array.from(await last.data());
          last.dispose();
          return value;
        },
        end() {
          optimizer.dispose();
          for (const tensor of [x, labels, w1, b1, w2, b2]) tensor.dispose();
        },
      };
    },
    end() {},
  };
}
