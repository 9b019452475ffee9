// What the tests of low-communication training share: replicas that train step by step and exchange what is due.
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { OuterExchange } from '../../runtime/average/outer-exchange.ts';
import type { Compute } from '../../runtime/compute.ts';
import { MeshError } from '../../runtime/errors.ts';
import { Replicas, signal } from './replicas.ts';

export async function openOuter(
  t: TestContext,
  compute: Compute,
  count: number,
  outer: object,
  more: object = {},
): Promise<Replicas> {
  const replicas = await Replicas.open(compute, count, { outer, ...more });
  t.after(() => replicas.close());
  return replicas;
}

export const outerOf = (replicas: Replicas, index: number): OuterExchange => {
  const { outer } = replicas.at(index).averaging;
  assert.ok(outer);
  return outer;
};
export const indices = (replicas: Replicas): number[] => replicas.all.map((_, index) => index);

/** A step of one replica, and what is due after it. */
export async function step(replicas: Replicas, index: number): Promise<void> {
  await replicas.train(index);
  await outerOf(replicas, index).stepped(replicas.at(index).steps, () => replicas.replicas, signal);
}

export async function steps(replicas: Replicas, count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) await Promise.all(indices(replicas).map((index) => step(replicas, index)));
}

export const finish = (replicas: Replicas): Promise<unknown> =>
  Promise.all(
    indices(replicas).map((index) =>
      outerOf(replicas, index).finish(replicas.at(index).steps, () => replicas.replicas, signal),
    ),
  );

export const slows = (replicas: Replicas): Promise<number[][]> =>
  Promise.all(indices(replicas).map((index) => replicas.slow(index)));

/** To the last bit. */
export async function assertSameSlow(replicas: Replicas): Promise<number[]> {
  const [first = [], ...others] = await slows(replicas);
  for (const other of others) assert.deepEqual(other, first);
  return first;
}

export const gone = (): MeshError => new MeshError('link-lost', 'The link is gone.', 'Wait.');
export const worst = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((value, i) => Math.abs(value - (b[i] ?? NaN))));
