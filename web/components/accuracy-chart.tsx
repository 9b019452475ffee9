// How much each worker of a federated run gets right, by its steps: one line a worker, in the colours of the table's rows.
import type { WorkerView } from '../federated-view.ts';
import { percent } from '../format.ts';
import { LineChart } from './line-chart.tsx';

const COLOURS = 6;

/** The name of a worker's colour, by its place among the workers. */
export const colourOf = (place: number): string => `--series-${(place % COLOURS) + 1}`;

/** From the tenth below the lowest to the tenth above the highest. */
const range = (min: number, max: number): [number, number] => [
  Math.max(0, Math.floor(min * 10) / 10),
  Math.min(1, Math.ceil(max * 10) / 10) || 1,
];

export function AccuracyChart({ workers, chosen }: { workers: readonly WorkerView[]; chosen: string | null }) {
  const lines = workers.map(({ uid, curve }, place) => ({
    colour: colourOf(place),
    width: uid === chosen ? 3 : 1.5,
    steps: curve.steps,
    values: curve.accuracies,
  }));
  const label = workers
    .filter(({ accuracy }) => accuracy !== null)
    .map(({ uid, accuracy }) => `${uid} ${percent(accuracy ?? 0)}`)
    .join(', ');
  return (
    <figure class="chart">
      <figcaption>Right answers by step</figcaption>
      {label === '' ? (
        <p class="muted">Appears when a worker's own model is tried on data that no worker was trained on.</p>
      ) : (
        <LineChart
          lines={lines}
          range={range}
          show={(value) => `${Math.round(value * 100)} %`}
          hasPoints
          label={`Right answers: ${label}`}
          testId="accuracy-chart"
        />
      )}
    </figure>
  );
}
