// How much of each class the model gets right, after an evaluation.
import { percent, plainText } from '../format.ts';

interface AccuracyBarsProps {
  shares: readonly number[];
  /** Whose, where there are several models. */
  of?: string;
  /** The name of a colour in the style sheet. */
  colour?: string;
  /** Share of each class in the data that it was trained on. */
  owned?: readonly number[];
}

export function AccuracyBars({ shares, of = '', colour = '--accent', owned = [] }: AccuracyBarsProps) {
  return (
    <figure class="bars">
      <figcaption>Right answers by class{of === '' ? '' : `, ${plainText(of)}`}</figcaption>
      {shares.length === 0 ? (
        <p class="muted">
          Appears {of === '' ? 'after each epoch, ' : ''}when the model is tried on data that it was not trained on.
        </p>
      ) : (
        <ol class={owned.length > 0 ? 'owned' : ''} data-testid={of === '' ? 'class-bars' : 'worker-class-bars'}>
          {owned.length > 0 ? (
            <li class="muted" aria-hidden="true">
              <span />
              <span />
              <span class="number">right</span>
              <span class="number">of its rows</span>
            </li>
          ) : null}
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
                <span style={{ width: percent(share).replace(' ', ''), background: `var(${colour})` }} />
              </span>
              <span class="number">{percent(share)}</span>
              {owned.length > 0 ? <span class="number muted">{percent(owned[index] ?? 0)}</span> : null}
            </li>
          ))}
        </ol>
      )}
    </figure>
  );
}
