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
              <meter min={0} max={1} value={share} aria-label={`Class ${index}`} />
              <span class="number">{percent(share)}</span>
            </li>
          ))}
        </ol>
      )}
    </figure>
  );
}
