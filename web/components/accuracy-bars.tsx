// How much of each class the model gets right, after an evaluation.
import { percent } from '../format.ts';

export function AccuracyBars({ shares }: { shares: readonly number[] }) {
  return (
    <figure class="bars">
      <figcaption>Right answers by class</figcaption>
      {shares.length === 0 ? (
        <p class="muted">Appears after each epoch, when the model is tried on data that it was not trained on.</p>
      ) : (
        <ol data-testid="class-bars">
          {shares.map((share, index) => (
            // A class has no other name than its place.
            <li key={index}>
              <span>{index}</span>
              <span
                class="track"
                role="meter"
                aria-label={`Class ${index}`}
                aria-valuemin={0}
                aria-valuemax={100}
                aria-valuenow={Math.round(share * 1_000) / 10}
              >
                <span style={{ width: percent(share).replace(' ', '') }} />
              </span>
              <span class="number">{percent(share)}</span>
            </li>
          ))}
        </ol>
      )}
    </figure>
  );
}
