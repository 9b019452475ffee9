// Processes that this one starts and ends: their events are read line by line, and they end with their parent.
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { MeshError } from '../runtime/errors.ts';
import type { Emit, EventOf, MeshEvent } from '../runtime/events.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const END_MS = 10_000;

export interface Child {
  readonly name: string;
  readonly pid: number;
  /** The next event of a kind, or one that came already. Rejects when the child ends first. */
  event<K extends MeshEvent['kind']>(kind: K): Promise<EventOf<K>>;
  readonly ended: Promise<number>;
  /** SIGTERM, and SIGKILL if that does not help in time. */
  end(): Promise<void>;
}

/** Starts `node <script> <args> --json`. Its standard error is kept for the message, should it fail. */
export function startChild(
  name: string,
  script: string,
  args: readonly string[],
  env: Record<string, string> = {},
  emit?: Emit,
): Child {
  // The IPC channel carries nothing: its end tells the child that its parent is gone, however it went.
  const child: ChildProcess = spawn(process.execPath, [script, ...args, '--json'], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true,
  });
  const seen: MeshEvent[] = [];
  const waiters = new Set<() => void>();
  let errors = '';
  child.stderr?.on('data', (data: Buffer) => {
    errors = (errors + data.toString()).slice(-4_000);
  });
  if (child.stdout)
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (!line.startsWith('{')) return;
      const event = parsed(line);
      if (!event) return;
      if (seen.length < 1_000) seen.push(event);
      emit?.(event);
      for (const wake of waiters) wake();
    });
  let code: number | null = null;
  const ended = new Promise<number>((resolve) => {
    child.once('close', (status) => {
      code = status ?? 1;
      resolve(code);
      for (const wake of waiters) wake();
    });
  });
  return {
    name,
    pid: child.pid ?? 0,
    ended,
    event: <K extends MeshEvent['kind']>(kind: K) =>
      new Promise<EventOf<K>>((resolve, reject) => {
        const look = (): void => {
          const found = seen.find((event): event is EventOf<K> => event.kind === kind);
          if (!found && code === null) return;
          waiters.delete(look);
          if (found) resolve(found);
          else
            reject(
              new MeshError(
                'closed',
                `${name} ended with code ${String(code)}: ${lastWords(errors)}`,
                'See the message above.',
              ),
            );
        };
        waiters.add(look);
        look();
      }),
    end: async () => {
      if (code !== null) return;
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), END_MS);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** A line that was cut off, because the child was killed while it wrote, is no event. */
function parsed(line: string): MeshEvent | null {
  try {
    return JSON.parse(line) as MeshEvent;
  } catch {
    return null;
  }
}

/** The `error:` and `fix:` lines if there are any, else the end of what was said. */
function lastWords(errors: string): string {
  const lines = errors.split('\n').filter((line) => line !== '' && !line.startsWith('Warning: maxDynamic'));
  const told = lines.filter((line) => line.startsWith('error: ') || line.startsWith('fix: '));
  return (told.length > 0 ? told : lines.slice(-3)).join(' ');
}
