// jax-js on WebGPU or WASM: its jit around the product, and around a whole training step with Adam written out (it has no
// optimizers of its own). Its arrays are counted: a call takes them, `.ref` keeps them.
import { LEARNING_RATE, initialWeights, type Contender } from './measure.ts';

// Of the peer's API, what is used here; the package is not there when this file is checked.
interface JaxArray {
  readonly ref: JaxArray;
  add(other: JaxArray | number): JaxArray;
  sub(other: JaxArray | number): JaxArray;
  mul(other: JaxArray | number): JaxArray;
  div(other: JaxArray | number): JaxArray;
  neg(): JaxArray;
  reshape(shape: number[]): JaxArray;
  data(): Promise<ArrayLike<number>>;
  dispose(): void;
}
type State = Record<string, JaxArray>;
interface Jax {
  init(...devices: string[]): Promise<string[]>;
  defaultDevice(device: string): string;
  jit<F>(body: F): F;
  valueAndGrad<A extends unknown[]>(
    body: (weights: State, ...rest: A) => JaxArray,
  ): (weights: State, ...rest: A) => [JaxArray, State];
  blockUntilReady<T>(tree: T): Promise<T>;
  numpy: {
    array(values: ArrayLike<number>): JaxArray;
    zeros(shape: number[]): JaxArray;
    matmul(a: JaxArray, b: JaxArray): JaxArray;
    sum(x: JaxArray): JaxArray;
    sqrt(x: JaxArray): JaxArray;
  };
  nn: { relu(x: JaxArray): JaxArray; logSoftmax(x: JaxArray, axis: number): JaxArray };
}

const BETA1 = 0.9;
const BETA2 = 0.999;
const EPS = 1e-8;

export async function jax(backend: 'webgpu' | 'wasm', adapter: string): Promise<Contender> {
  const peer = (await import(/* @vite-ignore */ `${'/peers/@jax-js/jax/dist/'}index.js`)) as Jax;
  const devices = await peer.init(backend);
  if (!devices.includes(backend)) throw new Error(`jax-js has no ${backend} here, only ${devices.join(', ')}`);
  peer.defaultDevice(backend);
  const { numpy: np, nn } = peer;
  const threads = typeof SharedArrayBuffer === 'undefined' ? 1 : navigator.hardwareConcurrency;
  return {
    device: backend === 'webgpu' ? adapter : `WASM, threads: ${threads}`,
    isTransposed: false,
    async matmul(size, aValues, bValues) {
      const a = np.array(aValues).reshape([size, size]);
      const b = np.array(bValues).reshape([size, size]);
      const product = peer.jit((left: JaxArray, right: JaxArray) => np.matmul(left, right));
      let results: JaxArray[] = [];
      const drop = (): void => {
        for (const result of results) result.dispose();
        results = [];
      };
      return {
        async run(times) {
          drop();
          // Held until they are there: what nobody holds need not be computed.
          for (let i = 0; i < times; i++) results.push(product(a.ref, b.ref));
          await peer.blockUntilReady(results);
        },
        result: () => results.at(-1)?.ref.data() ?? Promise.resolve([]),
        end() {
          for (const array of [a, b]) array.dispose();
          drop();
        },
      };
    },
    async mlp([inputs, hidden, classes], batch, samples) {
      const oneHot = new Float32Array(batch * classes);
      samples.y.forEach((label, row) => (oneHot[row * classes + label] = 1));
      const x = np.array(samples.x).reshape([batch, inputs]);
      const labels = np.array(oneHot).reshape([batch, classes]);
      const shapes = { w1: [inputs, hidden], b1: [hidden], w2: [hidden, classes], b2: [classes] };
      const zeros = (): State =>
        Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, np.zeros(shape)]));
      let weights: State = {
        ...zeros(),
        w1: np.array(initialWeights(inputs, hidden, 5)).reshape([inputs, hidden]),
        w2: np.array(initialWeights(hidden, classes, 6)).reshape([hidden, classes]),
      };
      let m = zeros();
      let v = zeros();
      /** beta1 and beta2 to the power of the steps taken. */
      let powers = np.array(new Float32Array([1]));
      let powers2 = np.array(new Float32Array([1]));

      const loss = (given: State, inputsOf: JaxArray, labelsOf: JaxArray): JaxArray => {
        const { w1, b1, w2, b2 } = given;
        if (!w1 || !b1 || !w2 || !b2) throw new Error('a weight is missing');
        const logits = np.matmul(nn.relu(np.matmul(inputsOf, w1).add(b1)), w2).add(b2);
        return np.sum(nn.logSoftmax(logits, -1).mul(labelsOf)).mul(-1 / batch);
      };
      const step = peer.jit(
        (given: State, m0: State, v0: State, p1: JaxArray, p2: JaxArray, inputsOf: JaxArray, labelsOf: JaxArray) => {
          const held = Object.fromEntries(Object.entries(given).map(([name, weight]) => [name, weight.ref]));
          const [value, gradients] = peer.valueAndGrad(loss)(held, inputsOf, labelsOf);
          const next1 = p1.mul(BETA1);
          const next2 = p2.mul(BETA2);
          const out: { weights: State; m: State; v: State } = { weights: {}, m: {}, v: {} };
          for (const [name, gradient] of Object.entries(gradients)) {
            const [weight, first0, second0] = [given[name], m0[name], v0[name]];
            if (!weight || !first0 || !second0) throw new Error(`${name} is missing`);
            const first = first0.mul(BETA1).add(gradient.ref.mul(1 - BETA1));
            const second = second0.mul(BETA2).add(gradient.ref.mul(gradient).mul(1 - BETA2));
            const mHat = first.ref.div(next1.ref.neg().add(1));
            const vHat = second.ref.div(next2.ref.neg().add(1));
            out.weights[name] = weight.sub(mHat.div(np.sqrt(vHat).add(EPS)).mul(LEARNING_RATE));
            out.m[name] = first;
            out.v[name] = second;
          }
          return { ...out, value, powers: next1, powers2: next2 };
        },
      );
      return {
        async run(steps) {
          let value = NaN;
          for (let i = 0; i < steps; i++) {
            const result = step(weights, m, v, powers, powers2, x.ref, labels.ref);
            ({ weights, m, v, powers, powers2 } = result);
            if (i < steps - 1) result.value.dispose();
            else {
              await peer.blockUntilReady(weights);
              value = Array.from(await result.value.data())[0] ?? NaN;
            }
          }
          return value;
        },
        end() {
          for (const array of [x, labels, powers, powers2, ...[weights, m, v].flatMap((tree) => Object.values(tree))])
            array.dispose();
        },
      };
    },
    end() {},
  };
}
