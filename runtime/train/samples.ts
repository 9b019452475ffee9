// Whether a model of images can learn a data set.
import { MeshError } from '../errors.ts';
import type { ClassifierSpec } from '../model-spec.ts';
import { samplesOf } from '../model/spec.ts';
import type { Dataset } from './data.ts';

/** Throws `stage-shapes` unless the model takes samples of this shape and tells at least as many classes. */
export function expectSamples(model: ClassifierSpec, { name, inputShape, classes: known }: Dataset): void {
  const { features, classes } = samplesOf(model);
  if (inputShape[0] === features && classes >= known) return;
  throw new MeshError(
    'stage-shapes',
    `The model maps ${features} to ${classes}; ${name} has ${inputShape[0]} features and ${known} classes.`,
    model.family === 'mlp'
      ? 'Change the first and last of model.sizes.'
      : 'Change model.input, and the features of the last of model.layers.',
  );
}
