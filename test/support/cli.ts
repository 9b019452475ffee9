// Commands of the command line, run to their end: what they printed, and with which exit code.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import type { MeshEvent } from '../../runtime/events.ts';
import { ROOT } from './processes.ts';

const LIMIT_MS = 60_000;

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
  /** The events among the lines of standard output. */
  events: MeshEvent[];
}

/** `node <script> <args>` without SKEIN_* variables but those given. */
export function runNode(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('SKEIN_'));
  return new Promise((resolve) => {
    const options = { cwd: ROOT, env: { ...Object.fromEntries(own), ...env }, timeout: LIMIT_MS };
    const child = execFile(process.execPath, args, options, (_, stdout, stderr) => {
      const lines = stdout.split('\n').filter((line) => line.startsWith('{'));
      const events = lines.map((line) => JSON.parse(line) as MeshEvent);
      resolve({ code: child.exitCode ?? -1, stdout, stderr, events });
    });
  });
}

/** It ended with this code, and standard error says what is wrong and what to do, in these words and without a stack. */
export function assertRefused(ended: Ended, code: number, error: RegExp, fix: RegExp): void {
  assert.equal(ended.code, code, ended.stderr);
  assert.match(line(ended.stderr, 'error'), error);
  assert.match(line(ended.stderr, 'fix'), fix);
  assert.doesNotMatch(ended.stderr, /^\s+at .*:\d+:\d+/m);
  assert.doesNotMatch(ended.stderr, /defect/);
}

const line = (text: string, label: string): string =>
  text.split('\n').find((one) => one.startsWith(`${label}: `)) ?? `(no "${label}:" line in: ${text})`;
