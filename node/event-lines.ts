// One line of plain text for each event, for a person at a terminal. Text of peers is stripped of control characters first.
import type { EventOf, MeshEvent } from '../runtime/events.ts';

/** The line, or null for events that are too many for a terminal (their figures are in others). */
export function lineOf(event: MeshEvent): string | null {
  const line = describe(event);
  return line === null ? null : withoutControls(line);
}

/** Control and direction-changing characters could rewrite a terminal. */
export const withoutControls = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ' ');

function describe(event: MeshEvent): string | null {
  switch (event.kind) {
    case 'monitor.ready':
      return `Monitor ready on ${event.url}`;
    case 'monitor.joined':
      return `Joined the monitor at ${event.url} as ${short(event.peer)}`;
    case 'monitor.lost':
      return `Lost the monitor (${event.reason}); running work goes on, trying again`;
    case 'peer.joined':
      return `${short(event.peer)} joined as ${event.role}`;
    case 'peer.left':
      return `${short(event.peer)} left: ${event.reason}`;
    case 'port.moved':
      return `Port ${event.wanted} is not free, using ${event.port} (${event.reason})`;
    case 'record.added':
      return `+ ${event.name} on ${short(event.peer)}`;
    case 'record.removed':
      return `- ${event.name} on ${short(event.peer)}: ${event.reason}`;
    case 'record.rejected':
      return `Rejected the record ${event.name}: ${event.reason}`;
    case 'gpu.found':
      return `GPU: ${event.device}${event.isSoftware ? ' (software)' : ''}`;
    case 'link.up':
      return `Link to ${short(event.peer)} over ${event.transport} (${event.reason}), ${event.rttMs.toFixed(1)} ms`;
    case 'link.down':
      return `Link to ${short(event.peer)} over ${event.transport} ended: ${event.reason}`;
    case 'link.moved':
      return `Link to ${short(event.peer)} moved from ${event.from} to ${event.to}: ${event.reason}`;
    case 'stage.ready':
      return `Stage ${event.uid} is ready${event.port === null ? '' : ` on port ${event.port}`}`;
    case 'stage.rejected':
      return `Stage ${event.uid} refused a request: ${event.reason}`;
    case 'stage.opened':
      return `Stage ${event.uid} serves run ${event.run}: layers ${event.layers[0]} to ${event.layers[1]}, ${event.parameterBytes} bytes of parameters`;
    case 'stage.adopted':
      return `Stage ${event.uid} took over the state of ${event.from} at step ${event.step}`;
    case 'worker.ready':
      return `Worker ${event.uid}: ${event.rows} rows of its own${event.labels.length > 0 ? `, labels ${event.labels.map((share) => `${(share * 100).toFixed(0)}`).join('/')} %` : ''}; neighbours ${event.neighbours.join(', ') || 'none'}`;
    case 'worker.waiting':
      return `Worker ${event.uid} waits for ${event.missing.join(', ')}`;
    case 'worker.adopted':
      return `Worker ${event.uid} begins with the model of ${event.from}, after its ${event.steps} steps`;
    case 'worker.progress':
      return (
        `${event.uid}  step ${event.step}/${event.steps}  loss ${event.loss.toFixed(4)}  ${event.samplesPerSecond.toFixed(0)} samples/s  ` +
        `${counted(event.rounds, 'merge')}  ${(event.bytes / 2 ** 20).toFixed(1)} MiB pulled  ${event.etaSeconds.toFixed(0)} s left`
      );
    case 'worker.evaluated':
      return `${event.uid} after step ${event.step}: ${quality(event)}`;
    case 'worker.done':
      return (
        `${event.uid} done in ${event.seconds.toFixed(1)} s: ${quality(event)}, ${event.samplesPerSecond} samples/s, ` +
        `${counted(event.rounds, 'merge')}, ${(event.bytes / 2 ** 20).toFixed(1)} MiB pulled${saved(event)}`
      );
    case 'peer.struck':
      return `${event.uid}: strike ${event.strikes} against ${event.peer}, ${event.offence}: ${event.detail}`;
    case 'peer.banned':
      return `${event.uid} leaves ${event.peer} out for ${event.seconds.toFixed(0)} s: ${event.offence}, ${event.reason}`;
    case 'stage.closed':
      return `Stage ${event.uid} is free again (run ${event.run} ended)`;
    case 'step.done':
      return `Loss ${event.loss} over ${event.rows} rows, gradient norm ${event.gradientNorm}, ${event.stages} stages; written to ${event.out}`;
    case 'process.started':
      return `${event.what} runs as process ${event.pid}`;
    case 'run.waiting':
      return `Run ${event.run} waits for ${event.missing.join(', ')}`;
    case 'run.started':
      return `Run ${event.run} started: ${event.stages.join(' → ')}, ${event.mode}, ${event.policy}`;
    case 'trainer.started':
      return `Trainer ${event.trainer}: ${event.path.join(' → ')}`;
    case 'trainer.stopped':
      return `Trainer ${event.trainer} stopped: ${event.reason}`;
    case 'hop.replaced':
      return `${event.uid} was replaced by ${event.by}: ${event.reason}`;
    case 'step.retried':
      return `Step ${event.step} is tried again (attempt ${event.attempt}): ${event.reason}`;
    case 'run.progress':
      return (
        `epoch ${event.epoch}/${event.epochs}  step ${event.step}/${event.steps}  loss ${event.loss.toFixed(4)}  ` +
        `${speed(event)}  ${counted(event.peers, 'peer')}  ${counted(event.trainers, 'trainer')}  ` +
        `${event.etaSeconds.toFixed(0)} s left${memory(event)}`
      );
    case 'checkpoint.saved':
      return `Checkpoint after step ${event.step}: ${event.path}`;
    case 'text.sampled':
      return `The model writes: ${event.prompt}${event.text}`;
    case 'model.saved':
      return `Model saved${event.format === 'huggingface' ? ' as a Hugging Face folder' : ''}: ${event.path}`;
    case 'run.evaluated':
      if (event.heldOutLoss !== undefined)
        return `After step ${event.step}: held-out loss ${event.heldOutLoss.toFixed(4)}, perplexity ${event.perplexity?.toFixed(2) ?? ''}, ${event.samples} windows`;
      return `After epoch ${event.epoch}: ${(event.accuracy * 100).toFixed(2)} % of ${event.samples} right`;
    case 'run.done':
      return (
        `Run ${event.run} done in ${event.seconds.toFixed(1)} s: ${outcome(event)}, ` +
        `${speed(event)}, ${counted(event.peers, 'peer')}, ${counted(event.trainers, 'trainer')}${saved(event)}`
      );
    case 'run.failed':
      return `Run ${event.run} failed: ${event.message} ${event.fix}`;
    case 'simulate.progress':
      return (
        `${event.done}/${event.runs}  ${event.system}, ${event.network}, seed ${event.seed}: ` +
        `${(event.accuracy * 100).toFixed(1)} % in the end, ${(event.target * 100).toFixed(0)} % ` +
        (event.targetSeconds === null ? 'not reached' : `after ${event.targetSeconds.toFixed(0)} virtual seconds`)
      );
    case 'simulate.done':
      return `${event.runs} runs in ${event.seconds.toFixed(0)} s${event.out === null ? '' : `; written to ${event.out}`}`;
    case 'log':
      return event.level === 'warn' ? `warning: ${event.message}` : event.message;
    default:
      return null;
  }
}

/** Of all classes, and of the worst. */
function quality({ accuracy, perClassAccuracy, heldOutLoss }: EventOf<'worker.evaluated' | 'worker.done'>): string {
  if (heldOutLoss !== undefined) return `held-out loss ${heldOutLoss.toFixed(4)}`;
  const worst = Math.min(...perClassAccuracy);
  return `${(accuracy * 100).toFixed(2)} % right, worst class ${(worst * 100).toFixed(1)} %`;
}

const memory = ({ memoryBytes }: EventOf<'run.progress'>): string =>
  memoryBytes === undefined ? '' : `  ${(memoryBytes / 2 ** 20).toFixed(0)} MiB`;

const speed = (event: EventOf<'run.progress' | 'run.done'>): string =>
  event.tokensPerSecond === undefined
    ? `${event.samplesPerSecond.toFixed(0)} samples/s`
    : `${event.tokensPerSecond.toFixed(0)} tokens/s`;

function outcome({ accuracy, heldOutLoss, referenceLoss }: EventOf<'run.done'>): string {
  if (heldOutLoss === undefined) return `${(accuracy * 100).toFixed(2)} % right`;
  const reference = referenceLoss === undefined ? '' : ` (PyTorch: ${referenceLoss.toFixed(4)})`;
  return `held-out loss ${heldOutLoss.toFixed(4)}${reference}`;
}

const short = (peer: string): string => (peer.length > 12 ? `${peer.slice(0, 8)}…` : peer);

const saved = ({ model }: { model: string }): string => (model === '' ? '' : `; model: ${model}`);

const counted = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`;
