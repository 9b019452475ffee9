// One training step from files to a file: the door for comparing with any other framework. The stages are peers of their own that
// talk over links, as in a mesh.
import { z } from 'zod';
import { optimizerSpecSchema, type OptimizerSpec } from '../runtime/compute.ts';
import { MeshError } from '../runtime/errors.ts';
import type { Emit } from '../runtime/events.ts';
import { LocalHub } from '../runtime/mesh/local.ts';
import { joinMesh, type Peer } from '../runtime/mesh/peer.ts';
import { randomText } from '../runtime/mesh/identity.ts';
import { layerCount, splitLayers } from '../runtime/model/spec.ts';
import { StageHost } from '../runtime/server/host.ts';
import { f32Tensor } from '../runtime/tensor.ts';
import { stageNames } from '../runtime/train/config.ts';
import { parseUid } from '../runtime/wire/ids.ts';
import type { Replica } from '../runtime/wire/messages.ts';
import { command, isOn, option } from './command.ts';
import { expectWritable, saveModel } from './model-file.ts';
import { oneStep } from './one-step.ts';
import { platform } from './platform.ts';
import { readBatch, readSpec, readWeights } from './step-files.ts';

const number = z.coerce.number();
const needed = (what: string): z.ZodString => z.string({ error: `is needed: ${what}` });

const schema = z.strictObject({
  model: needed('the model spec, a JSON file'),
  weights: needed('a safetensors file with every parameter'),
  batch: needed('a safetensors file with x and y'),
  out: needed('where the result goes'),
  split: z
    .string()
    .regex(/^\d+(,\d+)*$/, 'is a list of layers per stage, such as 1,2')
    .optional(),
  optimizer: z.enum(['sgd', 'adamw']).default('sgd'),
  precision: z.enum(['f32', 'bf16', 'f16']).optional(),
  recompute: z.unknown().optional().transform(isOn),
  lr: number.default(1e-3),
  momentum: number.optional(),
  beta1: number.optional(),
  beta2: number.optional(),
  eps: number.optional(),
  weightDecay: number.optional(),
});
type Options = z.infer<typeof schema>;

export const step = command({
  name: 'step',
  description:
    'Run one training step from files: gradients, updated parameters and loss, to compare with other frameworks.',
  options: [
    option(
      '--model <file>',
      'model spec: {"family":"mlp","sizes":[784,64,10],"activation":"relu"}, {"family":"cnn"} (LeNet-5, or its input and layers), or {"family":"gpt2", …} and {"family":"llama", …} with the keys of a Hugging Face config.json',
    ),
    option(
      '--weights <file>',
      "safetensors: layers.<i>.weight (out, in), of a convolution (out, in, kernel, kernel), and layers.<i>.bias (out), or the parameters of Hugging Face's model by their names",
    ),
    option(
      '--batch <file>',
      'safetensors: x (B, in) f32 and y (B) i32, or input_ids (B, T) and labels (B, T) i32 (label t is the target of position t); the loss is the mean over the targets that are not -100',
    ),
    option('--out <file>', 'safetensors: grad.<name>, the updated <name>, and loss'),
    option('--split <counts>', 'layers per stage, such as 1,2; the stages talk over links (default: one stage)'),
    option('--optimizer <sgd|adamw>', 'default: sgd'),
    option('--precision <f32|bf16|f16>', 'how weights and kept activations are stored (default: f32)'),
    option('--recompute', 'keep only the input of each layer, and run it again for the backward pass'),
    option('--lr <number>', 'learning rate (default: 0.001)'),
    option('--momentum <number>', 'sgd (default: 0)'),
    option('--beta1 <number>', 'adamw (default: 0.9)'),
    option('--beta2 <number>', 'adamw (default: 0.999)'),
    option('--eps <number>', 'adamw (default: 1e-8)'),
    option('--weight-decay <number>', 'default: 0 for sgd, 0.01 for adamw'),
  ],
  schema,
  examples: [
    'node node/cli.ts step --model spec.json --weights w.safetensors --batch b.safetensors --out o.safetensors --json',
    'node node/cli.ts step --model spec.json --weights w.safetensors --batch b.safetensors --out o.safetensors --split 1,1 --optimizer adamw --lr 1e-3',
  ],
  run: async (options, { emit, signal }) => {
    const model = await readSpec(options.model);
    const counts = options.split?.split(',').map(Number) ?? [layerCount(model)];
    const spans = splitLayers(model, counts);
    const { x, y, rows, counted } = await readBatch(options.batch, model);
    const { tensors: weights, asGiven } = await readWeights(options.weights, model);
    await expectWritable(options.out);
    const mesh = await localMesh(spans.length, emit);
    try {
      const { result, loss, gradientNorm } = await oneStep({
        ask: mesh.driver.ask,
        replicas: mesh.replicas,
        model,
        spans,
        optimizer: optimizerOf(options),
        precision: options.precision,
        recompute: options.recompute,
        weights,
        x,
        y,
        scale: 1 / counted,
        signal,
      });
      const named = new Map([['loss', f32Tensor([], new Float32Array([loss]))]]);
      for (const [name, { value, gradient }] of result) {
        const [given, tensor] = asGiven(name, value);
        named.set(given, tensor);
        named.set(`grad.${given}`, asGiven(name, gradient)[1]);
      }
      const out = await saveModel(options.out, named);
      emit({ kind: 'step.done', loss, gradientNorm, rows, stages: spans.length, out });
    } finally {
      await mesh.close();
    }
  },
});

interface LocalMesh {
  driver: Peer;
  replicas: Replica[];
  close(): Promise<void>;
}

/** A peer for each stage and one that drives them, linked; one worker serves them all. */
async function localMesh(stages: number, emit: Emit): Promise<LocalMesh> {
  const hub = new LocalHub();
  const token = randomText();
  const quiet: Emit = (event) => {
    if (event.kind === 'log' || event.kind === 'frame.rejected') emit(event);
  };
  const worker = await platform.startCompute();
  const gpu = await worker.compute.describe();
  const join = (): Promise<Peer> =>
    joinMesh({ target: null, token, role: 'server', emit: quiet, transports: (self) => [hub.transport(self)] });
  const peers: Peer[] = [];
  const hosts: StageHost[] = [];
  const replicas: Replica[] = [];
  for (const name of stageNames(stages)) {
    const peer = await join();
    const host = new StageHost({
      self: peer.id,
      host: 'node',
      compute: worker.compute,
      gpu,
      ask: peer.ask,
      emit: quiet,
      isConnected: (id) => peer.isConnected(id),
      addresses: () => [],
      traffic: () => peer.links.traffic(),
    });
    peer.serve(host.handlers);
    const { uid } = parseUid(`${name}.0.0.0`);
    host.add(uid);
    peers.push(peer);
    hosts.push(host);
    replicas.push({ uid, peer: peer.id, addresses: [] });
  }
  const driver = await join();
  return {
    driver,
    replicas,
    close: async () => {
      for (const host of hosts) host.close();
      await Promise.all([...peers, driver].map((peer) => peer.close('done')));
      await worker.end();
    },
  };
}

function optimizerOf(options: Options): OptimizerSpec {
  const { lr, momentum, beta1, beta2, eps, weightDecay } = options;
  const given = options.optimizer === 'sgd' ? { momentum, weightDecay } : { beta1, beta2, eps, weightDecay };
  const foreign = options.optimizer === 'sgd' ? { beta1, beta2, eps } : { momentum };
  for (const [name, value] of Object.entries(foreign))
    if (value !== undefined)
      throw new MeshError(
        'usage',
        `--${name} is no option of ${options.optimizer}.`,
        'Leave it out, or choose the other --optimizer.',
      );
  const parsed = optimizerSpecSchema.safeParse({
    name: options.optimizer,
    lr,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  });
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new MeshError(
    'usage',
    `The optimizer is wrong: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}.`,
    'See --help for what each option takes.',
  );
}
