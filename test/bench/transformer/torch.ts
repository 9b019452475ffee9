// PyTorch's half of the transformer benchmark, in a process of its own: transformer_torch.py, and what it printed.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { z } from 'zod';

const PYTHON = '/usr/bin/python3';
const run = promisify(execFile);
const script = fileURLToPath(new URL('../transformer_torch.py', import.meta.url));

const lineSchema = z.object({
  torch: z.string(),
  threads: z.number(),
  blas: z.string(),
  results: z.array(
    z.object({
      name: z.string(),
      batch: z.number(),
      tokens: z.number(),
      bestMs: z.number(),
      medianMs: z.number(),
    }),
  ),
});

export type TorchLine = z.infer<typeof lineSchema>;

/** Why there are no figures of PyTorch here, or null. */
export async function torchMissing(): Promise<string | null> {
  try {
    await run(PYTHON, ['-c', 'import torch']);
    return null;
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    return `${PYTHON} cannot import torch: ${text.trim().split('\n').at(-1) ?? ''} (Debian: apt-get install python3-torch)`;
  }
}

/** One pass over the measurements whose names begin with `only`; `threads` null: as many as PyTorch takes by itself. */
export async function runTorch(only: string, threads: number | null, repeats: number): Promise<TorchLine> {
  const args = [script, '--only', only, '--repeats', String(repeats)];
  if (threads !== null) args.push('--threads', String(threads));
  // Threads that spin while they wait take the cores from those that work.
  const { stdout } = await run(PYTHON, args, { env: { OMP_WAIT_POLICY: 'passive', ...process.env } });
  return lineSchema.parse(JSON.parse(stdout.trim().split('\n').at(-1) ?? ''));
}

/** BLAS's reference implementation computes products some twenty times slower than a tuned one: no opponent. */
export const isReferenceBlas = (blas: string): boolean =>
  /blas/.test(blas) && !/openblas|mkl|blis|atlas|inside/.test(blas);
