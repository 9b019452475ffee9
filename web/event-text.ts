// One line of text for an event in the page's log. The events are strangers' words: fields may be absent or of any type.
import type { PublishedEvent } from '../runtime/mesh/monitor-client.ts';
import { duration, plainText } from './format.ts';

export interface LogLine {
  key: number;
  at: number;
  isWarning: boolean;
  text: string;
}

type Fields = Record<string, unknown>;

/** What is known to be of use to a person; figures have places of their own on the page. */
const LINES: Record<string, (e: Fields) => string> = {
  'peer.joined': (e) => `${peer(e.peer)} joined as ${show(e.role)}`,
  'peer.left': (e) => `${peer(e.peer)} left: ${show(e.reason)}`,
  'gpu.found': (e) => `${peer(e.publisher)} has ${show(e.device)}${e.isSoftware === true ? ' (software driver)' : ''}`,
  'stage.ready': (e) => `${show(e.uid)} is ready on ${peer(e.publisher)}`,
  'stage.opened': (e) => `${show(e.uid)} opened for ${show(e.run)}`,
  'stage.adopted': (e) => `${show(e.uid)} took over the state of ${show(e.from)} at step ${show(e.step)}`,
  'stage.closed': (e) => `${show(e.uid)} is free again`,
  'stage.rejected': (e) => `${show(e.uid)} refused a request: ${show(e.reason)}`,
  'link.up': (e) => `${peer(e.publisher)} reached ${peer(e.peer)} over ${show(e.transport)}`,
  'link.moved': (e) => `${peer(e.publisher)} moved its link to ${peer(e.peer)} from ${show(e.from)} to ${show(e.to)}`,
  'link.down': (e) =>
    `The link of ${peer(e.publisher)} to ${peer(e.peer)} over ${show(e.transport)} ended: ${show(e.reason)}`,
  'hop.replaced': (e) => `${show(e.uid)} was replaced by ${show(e.by)}: ${show(e.reason)}`,
  'step.retried': (e) => `Step ${show(e.step)} is tried again: ${show(e.reason)}`,
  'trainer.started': (e) => `Trainer ${show(e.trainer)}: ${show(e.path)}`,
  'trainer.stopped': (e) => `Trainer ${show(e.trainer)} stopped: ${show(e.reason)}`,
  'run.waiting': (e) => `${show(e.run)} waits for ${show(e.missing)}`,
  'run.started': (e) => `${show(e.run)} started over ${show(e.stages)}`,
  'run.evaluated': (e) =>
    typeof e.heldOutLoss === 'number'
      ? `${show(e.run)}: held-out loss ${e.heldOutLoss.toFixed(4)} after step ${show(e.step)}`
      : `${show(e.run)}: ${percent(e.accuracy)} right after epoch ${show(e.epoch)}`,
  'run.done': (e) =>
    typeof e.heldOutLoss === 'number'
      ? `${show(e.run)} is done: held-out loss ${e.heldOutLoss.toFixed(4)}`
      : `${show(e.run)} is done: ${percent(e.accuracy)} right`,
  'worker.ready': (e) =>
    `${show(e.uid)} has ${show(e.rows)} rows of its own for ${show(e.run)}, and ${neighbours(e.neighbours)}`,
  'worker.waiting': (e) => `${show(e.uid)} waits for ${all(e.missing)}`,
  'worker.adopted': (e) => `${show(e.uid)} goes on from the weights of ${show(e.from)} at step ${show(e.steps)}`,
  'worker.evaluated': (e) =>
    typeof e.heldOutLoss === 'number'
      ? `${show(e.uid)}: held-out loss ${e.heldOutLoss.toFixed(4)} after step ${show(e.step)}`
      : `${show(e.uid)}: ${percent(e.accuracy)} right after step ${show(e.step)}`,
  'worker.done': (e) =>
    typeof e.heldOutLoss === 'number'
      ? `${show(e.uid)} is done: held-out loss ${e.heldOutLoss.toFixed(4)}, ${show(e.rounds)} merges`
      : `${show(e.uid)} is done: ${percent(e.accuracy)} right, ${show(e.rounds)} merges`,
  'peer.struck': (e) =>
    `${show(e.uid)} counts strike ${show(e.strikes)} against ${peerOrUid(e.peer)} (${show(e.offence)}): ${show(e.detail)}`,
  'peer.banned': (e) =>
    `${show(e.uid)} leaves ${peerOrUid(e.peer)} out for ${span(e.seconds)} (${show(e.offence)}): ${show(e.reason)}`,
  'text.sampled': (e) => `It writes: ${show(e.prompt)}${show(e.text)}`,
  'run.failed': (e) => `${show(e.run)} failed: ${show(e.message)} ${show(e.fix)}`,
  log: (e) => show(e.message),
};

const WARNINGS: ReadonlySet<string> = new Set([
  ...['run.failed', 'hop.replaced', 'step.retried', 'stage.rejected'],
  ...['peer.struck', 'peer.banned'],
]);

/** Null for kinds that the log leaves out. */
export function logLine(event: PublishedEvent, key: number): LogLine | null {
  const line = Object.hasOwn(LINES, event.kind) ? LINES[event.kind] : undefined;
  if (!line || isOfWatcher(event)) return null;
  const isWarning = WARNINGS.has(event.kind) || (event.kind === 'log' && event.level === 'warn');
  return { key, at: Number(event.at) || 0, isWarning, text: line({ ...event }) };
}

function show(value: unknown): string {
  const text = Array.isArray(value) ? value.map(String).join(' → ') : String(value ?? '?');
  return plainText(text, 240);
}

/** Who only looks at the page, as everybody does who opens it, changes nothing. */
const isOfWatcher = (event: PublishedEvent): boolean => event.kind === 'peer.joined' && event.role === 'observer';

const peer = (value: unknown): string => (value === 'monitor' ? 'the monitor' : show(value).slice(0, 8));
const percent = (value: unknown): string => `${(Number(value) * 100).toFixed(1)} %`;
const all = (value: unknown): string => (Array.isArray(value) ? plainText(value.slice(0, 20).join(' and '), 240) : '?');
function neighbours(value: unknown): string {
  const count = Array.isArray(value) ? value.length : 0;
  return count === 1 ? '1 neighbour' : `${count} neighbours`;
}
const span = (seconds: unknown): string => duration(Number(seconds));
/** Both are how averaging names others: the UID where it is known. */
const peerOrUid = (value: unknown): string => (String(value).includes('.') ? show(value) : peer(value));
