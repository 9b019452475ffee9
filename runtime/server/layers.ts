// What a hosted stage answers to those that average with it: offers and layers, from its shelf.
import { MeshError } from '../errors.ts';
import type { Averaging } from '../average/averaging.ts';
import type { Tensors } from '../tensor.ts';
import type { Answer, Context } from '../wire/channel.ts';
import type { Request } from '../wire/messages.ts';
import type { HostedStage } from './hosted-stage.ts';
import type { StageRun } from './stage-run.ts';

export const offer = (stage: HostedStage, body: Request<'layers.offer'>): Promise<Answer<'layers.offer'>> =>
  shown(stage, body.run, (averaging) => averaging.shelf.offer(body));

export const pull = (
  stage: HostedStage,
  body: Request<'layers.pull'>,
  tensors: Tensors,
  context: Context,
): Promise<Answer<'layers.pull'>> =>
  shown(stage, body.run, (averaging) => averaging.shelf.pull(body, tensors, context));

async function shown<T>(
  stage: HostedStage,
  run: Request<'layers.pull'>['run'],
  answer: (averaging: Averaging) => Promise<T>,
): Promise<T> {
  return answer(averagingOf(stage.uid, stage.expect(run)));
}

export function averagingOf(uid: string, { averaging }: StageRun): Averaging {
  if (averaging) return averaging;
  throw new MeshError('usage', `${uid} shows no layers: its run averages nothing.`, 'Open it with a parameter store.');
}
