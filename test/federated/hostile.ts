// What hostile workers show to the others: each kind of hostility as a change of what an honest one answers.
import { paddedTo } from '../../runtime/layer-store.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { unitsOf } from '../../runtime/model/units.ts';
import type { WorkerConfig } from '../../runtime/federated/config.ts';
import { f32Tensor, type Tensor } from '../../runtime/tensor.ts';
import type { Answer, Handlers } from '../../runtime/wire/channel.ts';
import { changed } from './harness.ts';

export const KINDS = ['nan', 'huge', 'flipped', 'stale', 'shape', 'counters', 'labels'] as const;
export type Kind = (typeof KINDS)[number];

type Tamper = (handlers: Handlers) => Handlers;

const onPull =
  (change: (answer: Answer<'layers.pull'>, units: readonly number[]) => Answer<'layers.pull'>): Tamper =>
  (handlers) => ({
    ...handlers,
    'layers.pull': async (body, tensors, context) => {
      const answer = await handlers['layers.pull']?.(body, tensors, context);
      if (!answer) throw new Error('nothing to tamper with');
      return change(answer, body.units);
    },
  });

const onOffer =
  (change: (body: Answer<'layers.offer'>['body'], count: number) => Partial<Answer<'layers.offer'>['body']>): Tamper =>
  (handlers) => {
    let count = 0;
    return {
      ...handlers,
      'layers.offer': async (body, tensors, context) => {
        const answer = await handlers['layers.offer']?.(body, tensors, context);
        if (!answer) throw new Error('nothing to tamper with');
        return { ...answer, body: { ...answer.body, ...change(answer.body, (count += 1)) } };
      },
    };
  };

const values = (change: (values: Float32Array) => void): Tamper =>
  onPull((answer) => ({ ...answer, tensors: changed(answer.tensors, change) }));

export function tamperOf(kind: Kind, config: WorkerConfig, unitBytes: number): Tamper {
  switch (kind) {
    case 'nan':
      return values((all) => (all[0] = Number.NaN));
    case 'huge':
      return values((all) => all.forEach((value, i) => (all[i] = value * 1e6)));
    case 'flipped':
      return values((all) => all.forEach((value, i) => (all[i] = -value)));
    case 'stale':
      return stale(config, unitBytes);
    case 'shape':
      return onPull((answer) => {
        const data = answer.tensors?.get('data');
        if (!data) return answer;
        const short = data.data.slice(0, data.data.byteLength - 256);
        return { ...answer, tensors: new Map([['data', { ...data, shape: [short.byteLength / 4], data: short }]]) };
      });
    case 'counters':
      // In its offers, and alike with its weights.
      return (handlers) => {
        const lie = (progress: readonly number[]): number[] => progress.map(() => performance.now() * 1e9);
        const offers = onOffer(({ progress }) => ({ progress: lie(progress) }));
        const pulls = onPull((answer) => ({
          ...answer,
          body: { ...answer.body, progress: lie(answer.body.progress) },
        }));
        return offers(pulls(handlers));
      };
    case 'labels':
      return onOffer(({ labels }, count) => ({ labels: labels.map((_, label) => (label === count % labels.length ? 1 : 0)) })); // prettier-ignore
    default:
      return kind satisfies never;
  }
}

/** What it showed first, for ever, under the versions and counters of one that trains. */
function stale({ model }: WorkerConfig, unitBytes: number): Tamper {
  const units = unitsOf(stageInfo(model, 0, 2).parameters, unitBytes);
  const first = new Map<number, Float32Array>();
  return onPull((answer, asked) => {
    const all = answer.tensors?.get('data');
    if (!all) return answer;
    const now = new Float32Array(all.data.slice().buffer);
    let at = 0;
    for (const unit of asked) {
      const length = paddedTo(units[unit]?.count ?? 0);
      const known = first.get(unit);
      if (known) now.set(known, at);
      else first.set(unit, now.slice(at, at + length));
      at += length;
    }
    return { ...answer, tensors: new Map<string, Tensor>([['data', f32Tensor([now.length], now)]]) };
  });
}
