// Real processes for tests: started with --json, their events read as they come, ended by their own id and by nothing broader.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { EventOf, MeshEvent } from '../../runtime/events.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

type Kind = MeshEvent['kind'];

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface Running {
  readonly pid: number;
  /** Every event so far, in order. */
  readonly events: readonly MeshEvent[];
  /** The first event of the kind that fits, past or to come. Rejects after `timeoutMs`, or when the process ends without it. */
  event<K extends Kind>(kind: K, fits?: (event: EventOf<K>) => boolean, timeoutMs?: number): Promise<EventOf<K>>;
  /** All events of a kind so far. */
  all<K extends Kind>(kind: K): EventOf<K>[];
  /** What it wrote for people. */
  stderr(): string;
  readonly exit: Promise<Exit>;
  /** Resolves once it has ended; one that ignores the signal for `graceMs` is killed. */
  kill(signal?: NodeJS.Signals, graceMs?: number): Promise<Exit>;
}

export interface StartOptions {
  env?: Record<string, string>;
  cwd?: string;
}

const EVENT_MS = 30_000;
const GRACE_MS = 10_000;
const KEPT_STDERR = 20_000;

export function start(command: string, args: readonly string[], options: StartOptions = {}): Running {
  const child = spawn(command, args, {
    cwd: options.cwd ?? ROOT,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const title = [command, ...args].join(' ').replace(/token=[\w-]+/g, 'token=…');
  const events: MeshEvent[] = [];
  const watchers = new Set<() => void>();
  let stderr = '';
  let exited: Exit | null = null;
  const wake = (): void => {
    for (const watcher of [...watchers]) watcher();
  };
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-KEPT_STDERR);
  });
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => {
    const event = parse(line);
    if (!event) return;
    events.push(event);
    wake();
  });
  const exit = new Promise<Exit>((resolve) => {
    const settle = (outcome: Exit): void => {
      exited = outcome;
      resolve(outcome);
      wake();
    };
    child.once('error', (error) => {
      stderr += String(error);
      settle({ code: null, signal: null });
    });
    child.once('close', (code, signal) => settle({ code, signal }));
  });
  const tail = (): string => `${title}\n${stderr.slice(-2_000)}`;

  return {
    pid: child.pid ?? -1,
    events,
    exit,
    stderr: () => stderr,
    all: (kind) => events.filter((event) => isOfKind(event, kind)),
    event: (kind, fits = () => true, timeoutMs = EVENT_MS) =>
      new Promise((resolve, reject) => {
        let seen = 0;
        const end = (): void => {
          clearTimeout(timer);
          watchers.delete(look);
        };
        const look = (): void => {
          for (; seen < events.length; seen += 1) {
            const event = events[seen];
            if (!event || !isOfKind(event, kind) || !fits(event)) continue;
            end();
            resolve(event);
            return;
          }
          if (!exited) return;
          end();
          reject(new Error(`ended (${exited.code ?? exited.signal}) without ${kind}: ${tail()}`));
        };
        const timer = setTimeout(() => {
          end();
          reject(new Error(`no ${kind} in ${timeoutMs} ms: ${tail()}`));
        }, timeoutMs);
        watchers.add(look);
        look();
      }),
    kill: async (signal = 'SIGTERM', graceMs = GRACE_MS) => {
      if (exited) return exited;
      child.kill(signal);
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      return exit.finally(() => clearTimeout(timer));
    },
  };
}

/** A script of this project under the Node that runs the test, with --json. */
export const startNode = (script: string, args: readonly string[], options?: StartOptions): Running =>
  start(process.execPath, [script, ...args, '--json'], options);

function parse(line: string): MeshEvent | null {
  if (!line.startsWith('{')) return null;
  try {
    return JSON.parse(line) as MeshEvent;
  } catch {
    return null; // not an event: a line of something else that the process started
  }
}

const isOfKind = <K extends Kind>(event: MeshEvent, kind: K): event is EventOf<K> => event.kind === kind;
