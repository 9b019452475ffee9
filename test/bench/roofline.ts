// What our kernels reach of what the adapter can do at all: each kernel at GPT-2's shapes, against the lesser of the peak of
// multiply-adds and of what memory delivers for it (the roofline). Part of `npm run bench -- transformer`.
import { platform } from '../../node/platform.ts';
import { Gpu } from '../../runtime/gpu/gpu.ts';
import { ensureTuned } from '../../runtime/gpu/matmul/tune-gpu.ts';
import { memoryStore } from '../../runtime/gpu/tuning-store.ts';
import { kernelCases } from './roofline/cases.ts';
import { measurePeaks, type Peaks } from './roofline/peaks.ts';
import { productCases } from './roofline/products.ts';
import { timed, type Pace } from './roofline/timed.ts';

export const rooflineGroups = [
  'matmul',
  'gemv',
  'attention',
  'norm',
  'elementwise',
  'vocabulary',
  'embedding',
  'optimizer',
];

const PACE: Pace = { batches: 5, batchMs: 40 };
const QUICK: Pace = { batches: 2, batchMs: 20 };

export interface RooflineRow {
  group: string;
  kernel: string;
  ms: number;
  /** 1e9 a second: of operations where they are what counts, and of bytes. */
  gflops?: number;
  gigabytesPerSecond: number;
  /** What limits it: operations or memory; and the share of that limit that it reaches. */
  limit: 'flops' | 'memory';
  share: number;
  /** Milliseconds of it in a training step. */
  msPerStep?: number;
}

export interface Roofline {
  method: string;
  peaks: Peaks;
  kernels: RooflineRow[];
  /** Of the kernels above, in a training step of GPT-2 124M with 1×128 tokens, by group; all groups only. */
  stepMs: Record<string, number>;
}

/** `only`: groups, by the beginnings of their names; none: all. */
export async function benchRoofline(only: readonly string[], isQuick: boolean): Promise<Roofline> {
  const pace = isQuick ? QUICK : PACE;
  const gpu = await Gpu.acquire(platform);
  try {
    const store = platform.tuningStore?.() ?? memoryStore();
    await ensureTuned(gpu, 'f32', store);
    await ensureTuned(gpu, 'half', store);
    const peaks = await measurePeaks(gpu, pace);
    const kernels: RooflineRow[] = [];
    const cases = [...productCases(gpu.description), ...kernelCases(gpu.description)].filter(
      ({ group }) => only.length === 0 || only.some((part) => group.startsWith(part)),
    );
    for (const { group, name, flops, bytes, perStep, ...work } of cases) {
      const ms = await timed(gpu, work, pace);
      const flopsMs = flops / peaks.gflops / 1e6;
      const memoryMs = bytes / peaks.gigabytesPerSecond / 1e6;
      kernels.push({
        ...{ group, kernel: name, ms: round(ms, 4) },
        ...(flops > 0 ? { gflops: round(flops / ms / 1e6, 1) } : {}),
        gigabytesPerSecond: round(bytes / ms / 1e6, 1),
        limit: flopsMs > memoryMs ? 'flops' : 'memory',
        share: round(Math.max(flopsMs, memoryMs) / ms, 3),
        ...(perStep > 0 ? { msPerStep: round(ms * perStep, 2) } : {}),
      });
    }
    const stepMs: Record<string, number> = {};
    for (const { group, msPerStep = 0 } of kernels) stepMs[group] = round((stepMs[group] ?? 0) + msPerStep, 1);
    return {
      method:
        `f32; ${pace.batches} batches of about ${pace.batchMs} ms, the best of them, wall clock from submit to a 4-byte readback; share: of the ` +
        'lesser of the peaks; small operands stay in caches, which may deliver more than the peak of memory',
      peaks: rounded(peaks),
      kernels,
      stepMs,
    };
  } finally {
    await gpu.destroy();
  }
}

const rounded = (peaks: Peaks): Peaks => ({
  gflops: round(peaks.gflops, 1),
  gigabytesPerSecond: round(peaks.gigabytesPerSecond, 1),
  copyKernel: round(peaks.copyKernel, 1),
  copyCommand: round(peaks.copyCommand, 1),
  readKernel: round(peaks.readKernel, 1),
});

/** For people: a line each. */
export function showRoofline({ method, peaks, kernels, stepMs }: Roofline): string {
  const { gflops, copyKernel, copyCommand, readKernel } = peaks;
  const lines = [
    `peaks: ${gflops} GF/s; memory in GB/s: ${copyKernel} copied by a kernel, ${copyCommand} by a command, ${readKernel} read by a kernel`,
    method,
  ];
  for (const row of kernels) {
    const rate = row.gflops === undefined ? '' : `${row.gflops} GF/s, `;
    const step = row.msPerStep === undefined ? '' : `, ${row.msPerStep} ms a step`;
    lines.push(
      `${row.group.padEnd(12)} ${row.kernel.padEnd(46)} ${row.ms} ms, ${rate}${row.gigabytesPerSecond} GB/s, ` +
        `${Math.round(row.share * 100)} % of what ${row.limit === 'flops' ? 'arithmetic' : 'memory'} allows${step}`,
    );
  }
  const parts = Object.entries(stepMs).filter(([, ms]) => ms > 0);
  lines.push(`a training step, by kernels: ${parts.map(([group, ms]) => `${group} ${ms} ms`).join(', ')}`);
  return lines.join('\n');
}

const round = (value: number, digits: number): number => Math.round(value * 10 ** digits) / 10 ** digits;
