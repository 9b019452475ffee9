// A small MLP over two stages on the real compute engine, activations and gradients between them in each wire format, and in each order
// that a run may ask for: it trains as in f32, within a stated bound.
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Compute } from '../../runtime/compute.ts';
import { askerOf, type Ask } from '../../runtime/mesh/ask.ts';
import { StageHost } from '../../runtime/server/host.ts';
import { f32Tensor, i32Tensor, type Tensors } from '../../runtime/tensor.ts';
import { parseUid } from '../../runtime/wire/ids.ts';
import type { Request } from '../../runtime/wire/messages.ts';
import { specOf, testCompute } from '../model/harness.ts';
import { noise } from '../reference/kernels.ts';
import { peerId, RUN } from './stages.ts';

const compute = testCompute();
const PEER = peerId('a');
const FRONT = parseUid('front.0.0.0').uid;
const BACK = parseUid('back.0.0.0').uid;
const ROWS = 24;
const STEPS = 40;
/** Relative, of the last step's loss. */
const BOUND = { f32: 1e-4, f16: 1e-3, int8: 3e-2 };

type More = Pick<Request<'stage.forward'>, 'wire' | 'prefer'>;

/** Both stages on one peer; `seen` gets what travels between them. */
function openHost(engine: Compute, seen: (tensors: Tensors) => void): { host: StageHost; ask: Ask } {
  const own = askerOf(
    PEER,
    () => {
      throw new Error('no links here');
    },
    () => host.handlers,
  );
  const ask: Ask = async (replica, kind, body, options) => {
    if (options.tensors) seen(options.tensors);
    const answer = await own(replica, kind, body, options);
    seen(answer.tensors);
    return answer;
  };
  const gpu = { vendor: '', architecture: '', device: '', description: '', isSoftware: true, features: [], subgroupMinSize: 0, subgroupMaxSize: 0, maxBufferSize: 0, maxStorageBufferBindingSize: 0 }; // prettier-ignore
  const host: StageHost = new StageHost({
    ...{ self: PEER, host: 'node', compute: engine, gpu, ask, emit: () => undefined, addresses: () => [] },
    ...{ isConnected: () => true, traffic: () => ({ bytesIn: 0, bytesOut: 0 }) },
  });
  host.add(FRONT);
  host.add(BACK);
  return { host, ask };
}

/** Losses of each step; `dtypes` of what was named x or dx on its way. */
async function train(more: More): Promise<{ losses: number[]; dtypes: Set<string> }> {
  const dtypes = new Set<string>();
  const { host, ask } = openHost(compute, (tensors) => {
    for (const [name, { dtype }] of tensors) if (name === 'x' || name === 'dx') dtypes.add(`${name} ${dtype}`);
  });
  const replica = (uid: typeof FRONT): { uid: typeof FRONT; peer: typeof PEER; addresses: [] } => ({ uid, peer: PEER, addresses: [] }); // prettier-ignore
  const options = { deadlineMs: 30_000 };
  try {
    for (const [uid, from] of [
      [FRONT, 0],
      [BACK, 1],
    ] as const) {
      // prettier-ignore
      const spec = specOf([6, 20, 3], { from, to: from + 1, optimizer: { name: 'sgd', lr: 0.3 } });
      await ask(replica(uid), 'stage.open', { uid, run: RUN, spec, mode: 'sync', accumulate: 1 }, options);
    }
    const losses: number[] = [];
    for (let step = 0; step < STEPS; step += 1) {
      const answers = await Promise.all(
        [0, 1, 2].map((microbatch) => {
          const x = noise(ROWS * 6, 10 + microbatch);
          const y = Int32Array.from({ length: ROWS }, (_, row) => ((x[row * 6] ?? 0) > 0 ? 2 : (x[row * 6 + 1] ?? 0) > 0 ? 1 : 0)); // prettier-ignore
          const key = { run: RUN, trainer: 't', step, microbatch };
          const body = { uid: FRONT, run: RUN, step, attempt: 0, key, scale: 1 / (3 * ROWS), route: [[replica(BACK)]] };
          const tensors = new Map([['x', f32Tensor([ROWS, 6], x)], ['y', i32Tensor([ROWS], y)]]); // prettier-ignore
          return ask(replica(FRONT), 'stage.forward', { ...body, ...more }, { ...options, tensors });
        }),
      );
      losses.push(answers.reduce((sum, { body }) => sum + body.loss, 0));
      for (const uid of [FRONT, BACK]) {
        const members = [{ replica: replica(uid), microbatches: [0, 1, 2] }];
        await ask(replica(uid), 'stage.reduce', { uid, run: RUN, step, attempt: 0, members }, options);
        await ask(replica(uid), 'stage.apply', { uid, run: RUN, step, attempt: 0 }, options);
      }
    }
    for (const uid of [FRONT, BACK]) await ask(replica(uid), 'stage.close', { uid, run: RUN }, options);
    return { losses, dtypes };
  } finally {
    host.close();
  }
}

test('every format trains as f32 does, and is what travels', async () => {
  const reference = await train({});
  const [first = NaN] = reference.losses;
  const last = reference.losses.at(-1) ?? NaN;
  assert.ok(last < first * 0.6, `f32 goes from ${first} to ${last}`);
  assert.deepEqual([...reference.dtypes], ['x f32', 'dx f32']);
  for (const [wire, dtype] of [
    ['f32', 'f32'],
    ['f16', 'f16'],
    ['int8', 'i8'],
  ] as const) {
    // prettier-ignore
    const { losses, dtypes } = await train({ wire });
    assert.ok(dtypes.has(`x ${dtype}`) && dtypes.has(`dx ${dtype}`), [...dtypes].join());
    const end = losses.at(-1) ?? NaN;
    assert.ok(Math.abs(end - last) <= BOUND[wire] * last, `${wire}: ${end}, f32: ${last}`);
  }
});

test('in whatever order its passes run, a step is the same to rounding', async () => {
  const reference = (await train({})).losses.at(-1) ?? NaN;
  for (const prefer of ['forward', 'backward'] as const) {
    const loss = (await train({ prefer })).losses.at(-1) ?? NaN;
    assert.ok(Math.abs(loss - reference) <= 1e-4 * reference, `${prefer} first: ${loss}, in order: ${reference}`);
  }
});

test('what is not finite is refused on its way out of a stage, whatever the format', async () => {
  for (const wire of ['f32', 'f16', 'int8'] as const) {
    const broken: Compute = {
      ...compute,
      forward: (_, __, x) => Promise.resolve(f32Tensor([x.shape[0] ?? 0, 20], new Float32Array(20 * (x.shape[0] ?? 0)).fill(NaN))), // prettier-ignore
    };
    const { host, ask } = openHost(broken, () => undefined);
    try {
      for (const [uid, from] of [
        [FRONT, 0],
        [BACK, 1],
      ] as const) {
        // prettier-ignore
        const spec = specOf([6, 20, 3], { from, to: from + 1 });
        await ask({ uid, peer: PEER, addresses: [] }, 'stage.open', { uid, run: RUN, spec, mode: 'sync', accumulate: 1 }, { deadlineMs: 30_000 }); // prettier-ignore
      }
      const key = { run: RUN, trainer: 't', step: 0, microbatch: 0 };
      const body = { uid: FRONT, run: RUN, step: 0, attempt: 0, key, scale: 1, wire, route: [[{ uid: BACK, peer: PEER, addresses: [] }]] }; // prettier-ignore
      const tensors = new Map([['x', f32Tensor([1, 6], noise(6, 1))], ['y', i32Tensor([1], Int32Array.of(0))]]); // prettier-ignore
      const asked = ask({ uid: FRONT, peer: PEER, addresses: [] }, 'stage.forward', body, { deadlineMs: 30_000, tensors }); // prettier-ignore
      await assert.rejects(asked, { code: 'not-finite' });
    } finally {
      host.close();
    }
  }
});
