// Whether the state of every stage can travel: a replica sends its weights, or weights and optimizer state, as one frame. Pure; asked
// before a run begins, because what is too large would otherwise only be found when it is to be saved.
import { MeshError } from '../errors.ts';
import { momentNames, stageInfo } from '../model/spec.ts';
import { MUX_DEFAULTS } from '../wire/mux.ts';
import type { RunConfig, StagePlan } from './config.ts';

/** Names, shapes and the step, generously. */
const HEADER_BYTES = 1 << 20;

/** Throws `too-large` where the run could not be saved; tells of a stage that no newcomer could take over, or null. */
export function expectTravels(
  { model, optimizer, checkpoints, resume }: RunConfig,
  plans: readonly StagePlan[],
): string | null {
  const copies = 1 + momentNames(optimizer).length;
  let warning: string | null = null;
  for (const { name, from, to } of plans) {
    const weights = stageInfo(model, from, to).parameterBytes;
    const isKept = checkpoints !== undefined || resume !== undefined;
    const what = isKept ? 'weights and optimizer state' : 'weights';
    const bytes = weights * (isKept ? copies : 1);
    if (bytes + HEADER_BYTES > MUX_DEFAULTS.maxFrameBytes)
      throw new MeshError(
        'too-large',
        `The ${what} of stage ${name} are ${mebibytes(bytes)} MiB, and a frame takes ${mebibytes(MUX_DEFAULTS.maxFrameBytes)} MiB: the run could not be saved.`,
        isKept ? 'Use more stages, or leave checkpoints and resume out.' : 'Use more stages.',
      );
    if (weights * copies + HEADER_BYTES > MUX_DEFAULTS.maxFrameBytes)
      warning ??= `The weights and optimizer state of stage ${name} are ${mebibytes(weights * copies)} MiB, and a frame takes ${mebibytes(MUX_DEFAULTS.maxFrameBytes)} MiB: a replica that comes later cannot take them over. Use more stages.`;
  }
  return warning;
}

const mebibytes = (bytes: number): number => Math.ceil(bytes / 2 ** 20);
