// The loss curve of a run.
import { loss } from '../format.ts';
import type { RunView } from '../run-view.ts';
import { LineChart } from './line-chart.tsx';

const range = (min: number, max: number): [number, number] => [Math.max(0, min - (max - min) * 0.1), max * 1.05 || 1];

export function LossChart({ view }: { view: RunView }) {
  const { steps, losses } = view.curve;
  return (
    <figure class="chart">
      <figcaption>Loss by step</figcaption>
      <LineChart
        lines={[{ colour: '--accent', width: 2, steps, values: losses }]}
        range={range}
        label={`Loss ${loss(losses.at(-1) ?? null)} at step ${steps.at(-1) ?? 0}, from ${loss(losses[0] ?? null)}`}
        testId="loss-chart"
      />
    </figure>
  );
}
