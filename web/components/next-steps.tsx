// The two commands that take a mesh further, ready to copy.
import { useState } from 'preact/hooks';
import { formatJoinUrl } from '../../runtime/mesh/join-url.ts';
import { chooseStage, freeUid } from '../choose-stage.ts';
import type { State } from '../state.ts';

const SHOWN_MS = 2_000;

export function NextSteps({ state }: { state: State }) {
  const target = state.target.value;
  if (!target) return null;
  const link = formatJoinUrl(target);
  const records = state.records.value;
  const uid = freeUid(records, chooseStage(records), new Set());
  return (
    <section class="card" aria-labelledby="next-title">
      <h2 id="next-title">More machines, more runs</h2>
      <Command
        title="Lend a machine without a screen"
        text={`node node/serve.ts --join '${link}' --stage ${uid}`}
        id="serve"
      />
      <Command
        title="Start a run (MNIST, unless you give --config)"
        text={`node node/train.ts --join '${link}'`}
        id="train"
      />
      <Command title="Lend a GPU from another browser" text={link} id="link" />
      <p class="muted">Whoever has the link can join this mesh.</p>
    </section>
  );
}

function Command({ title, text, id }: { title: string; text: string; id: string }) {
  const [outcome, setOutcome] = useState<'copied' | 'refused' | null>(null);
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      setOutcome('copied');
    } catch {
      setOutcome('refused'); // the browser asks for leave, and the person said no: the text can still be selected
    }
    setTimeout(() => setOutcome(null), SHOWN_MS);
  };
  return (
    <div class="command">
      <h3>{title}</h3>
      <div>
        <pre>
          <code data-testid={`command-${id}`}>{text}</code>
        </pre>
        <button type="button" onClick={() => void copy()} aria-label={`Copy: ${title}`}>
          {outcome === 'copied' ? 'Copied' : outcome === 'refused' ? 'Select it' : 'Copy'}
        </button>
      </div>
    </div>
  );
}
