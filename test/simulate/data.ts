// A small data set for simulations in tests: ten classes of 8 × 8 images, a bright patch each, with noise.
import { Draws } from '../../runtime/simulate/draws.ts';
import { parseSimulationConfig, type SimulationConfig } from '../../runtime/simulate/config.ts';
import type { LabelledImages, SimulationData } from '../../runtime/simulate/learner.ts';

const SIDE = 8;
const CLASSES = 10;

function imagesOf(rows: number, index: number): LabelledImages {
  const draws = new Draws(7, 'start', index);
  const images = new Uint8Array(rows * SIDE * SIDE);
  const labels = Uint8Array.from({ length: rows }, (_, row) => row % CLASSES);
  for (let row = 0; row < rows; row += 1) {
    const label = labels[row] ?? 0;
    for (let k = 0; k < SIDE * SIDE; k += 1) {
      const isBright = k % 7 === label % 7 && Math.floor(k / 32) === Math.floor(label / 5) % 2;
      const noise = draws.uniform() < 0.3 ? 120 * draws.uniform() : 0;
      images[row * SIDE * SIDE + k] = Math.min(255, (isBright ? 160 : 0) + noise);
    }
  }
  return { images, labels, rows, features: SIDE * SIDE };
}

export const DATA: SimulationData = { train: imagesOf(800, 0), test: imagesOf(200, 1), classes: CLASSES };

/** Eight workers, half a minute. */
export const smallConfig = (more: Record<string, unknown> = {}): SimulationConfig =>
  parseSimulationConfig({
    ...{ workers: 8, topology: { kind: 'full' }, churn: false, seconds: 30, sampleSeconds: 5, targets: [0.5, 0.8] },
    learning: { rows: 800, testRows: 200, hidden: 16, pool: 1, learningRate: 0.05, batch: 20 },
    ...more,
  });
