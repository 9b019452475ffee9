// One training step of a transformer in a real browser agrees with PyTorch (test/golden/lm): by the compute engine in a page, in one to
// four stages; and over WebRTC, where a tab lends its GPU for the last stage and a process hosts the first.
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Page } from 'playwright';
import { build } from 'vite';
import { oneStep } from '../../node/one-step.ts';
import { joinFromNode } from '../../node/peer.ts';
import { optimizerSpecSchema } from '../../runtime/compute.ts';
import { modelSpecSchema } from '../../runtime/model-spec.ts';
import { fromHuggingFace, toHuggingFaceTensor } from '../../runtime/model/huggingface.ts';
import { splitLayers } from '../../runtime/model/spec.ts';
import { decode, encode } from '../../runtime/safetensors.ts';
import { i32Of, type Tensor } from '../../runtime/tensor.ts';
import { parseUid, runIdSchema } from '../../runtime/wire/ids.ts';
import type { Replica } from '../../runtime/wire/messages.ts';
import { lendTab, startBrowser } from '../support/browser.ts';
import {
  GOLDEN_LANGUAGE_MODELS,
  PARITY,
  assertGradients,
  assertStepped,
  evenSplit,
  goldenModel,
} from '../support/golden-language.ts';
import { startMesh } from '../support/mesh.ts';
import type { PageStep, StepPage } from './step-page/page.ts';

/** Pages of this origin are served out of memory; loopback is a secure context, without which there is no WebGPU. */
const ORIGIN = 'http://localhost:1/';

/** Bundles the page and opens it. */
async function openStepPage(t: TestContext): Promise<Page> {
  const built = await build({
    configFile: false,
    logLevel: 'error',
    root: fileURLToPath(new URL('step-page', import.meta.url)),
    base: './',
    worker: { format: 'es' },
    build: { write: false, target: 'es2022', modulePreload: { polyfill: false } },
  });
  const outputs = [built].flat().flatMap((bundle) => ('output' in bundle ? bundle.output : []));
  const browser = await startBrowser(t);
  const page = await browser.newPage();
  await page.route(`${ORIGIN}**`, async (route) => {
    const path = new URL(route.request().url()).pathname.slice(1) || 'index.html';
    const file = outputs.find(({ fileName }) => fileName === path);
    if (!file) return route.fulfill({ status: 404 });
    const body = file.type === 'chunk' ? file.code : Buffer.from(file.source);
    return route.fulfill({ body, contentType: path.endsWith('.html') ? 'text/html' : 'text/javascript' });
  });
  page.on('pageerror', (error) => t.diagnostic(`the page: ${error.message}`));
  await page.goto(ORIGIN);
  await page.waitForFunction(() => 'stepPage' in globalThis);
  return page;
}

// These functions run in the page, where `stepPage` is.
const inPage = {
  describe: () => (globalThis as unknown as { stepPage: StepPage }).stepPage.describe(),
  steps: (given: PageStep) => (globalThis as unknown as { stepPage: StepPage }).stepPage.steps(given),
};

test('a page agrees with PyTorch in one to four stages', { timeout: 170_000 }, async (t) => {
  const page = await openStepPage(t);
  const gpu = await page.evaluate(inPage.describe);
  t.diagnostic(`${gpu.vendor} ${gpu.architecture}, subgroups of ${gpu.subgroupMinSize} to ${gpu.subgroupMaxSize}`);
  const wrong: string[] = [];
  for (const name of GOLDEN_LANGUAGE_MODELS) {
    const golden = goldenModel(name);
    const tensors = Buffer.from(encode(new Map([...golden.weights, ...golden.batch]))).toString('base64');
    const splits = [1, 2, 3, 4].filter((n) => n <= golden.layers).map((n) => evenSplit(golden.layers, n));
    const worst = { loss: 0, gradient: 0 };
    const since = performance.now();
    const results = await page.evaluate(inPage.steps, { model: golden.model, tensors, splits });
    results.forEach(({ loss, gradients }, i) => {
      const label = `${name} split ${splits[i]?.join('+')}`;
      try {
        const decoded = decode(Uint8Array.from(Buffer.from(gradients, 'base64'))).tensors;
        const errors = assertGradients(golden, loss, new Map(decoded));
        worst.loss = Math.max(worst.loss, errors.loss);
        worst.gradient = Math.max(worst.gradient, errors.gradient);
      } catch (cause) {
        wrong.push(`${label}: ${(cause as Error).message}`);
      }
    });
    const figures = `loss off by ${worst.loss.toExponential(1)}, gradients by ${worst.gradient.toExponential(1)}`;
    t.diagnostic(`${name}: ${figures}, ${Math.round(performance.now() - since)} ms`);
  }
  assert.deepEqual(wrong, []);
});

test('a tab hosts the last stage, a process the first, over WebRTC', { timeout: 120_000 }, async (t) => {
  const golden = goldenModel('gpt2-four-layers');
  const model = modelSpecSchema.parse(JSON.parse(golden.model));
  const [x, y] = [golden.batch.get('input_ids'), golden.batch.get('labels')];
  assert.ok(x && y);
  const mesh = await startMesh(t);
  const browser = await startBrowser(t);
  const [tab] = await Promise.all([lendTab(browser, mesh.joinUrl, 'back.0.0.0'), mesh.serveReady(['front.0.0.0'])]);
  const transports = new Set<string>();
  const peer = await joinFromNode({
    ...{ join: mesh.joinUrl, role: 'client', host: '127.0.0.1', port: 0, signal: t.signal },
    emit: (event) => {
      if (event.kind === 'link.up') transports.add(event.transport);
    },
  });
  t.after(() => peer.close('done'));
  const replicas: Replica[] = [];
  for (const name of ['front.0.0.0', 'back.0.0.0']) {
    const record = (await peer.monitor?.discover(name))?.find(({ kind }) => kind === 'stage');
    assert.ok(record?.kind === 'stage', `${name} is announced`);
    replicas.push({ uid: parseUid(name).uid, peer: record.peer, addresses: record.addresses });
  }
  const { result, loss } = await oneStep({
    ...{ ask: peer.ask, replicas, model, spans: splitLayers(model, [2, 2]), x, y, signal: t.signal },
    optimizer: optimizerSpecSchema.parse({
      ...{ name: 'adamw', lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 },
    }),
    ...{ precision: undefined, recompute: false, weights: fromHuggingFace(model, golden.weights) },
    scale: 1 / i32Of(y).filter((label) => label !== -100).length,
  });
  const given = (what: 'value' | 'gradient'): Map<string, Tensor> =>
    new Map([...result].map(([name, stepped]) => [name, toHuggingFaceTensor(model, name, stepped[what])]));
  const errors = assertGradients(golden, loss, given('gradient'), PARITY);
  assertStepped(golden, given('value'));
  t.diagnostic(`loss off by ${errors.loss.toExponential(1)}, gradients by ${errors.gradient.toExponential(1)}`);
  // Both ends have the embedding, and applied the same bits to it.
  const run = runIdSchema.parse('step');
  const copies = await Promise.all(
    replicas.map(async (replica) => {
      const request = { uid: replica.uid, run, state: 'weights' } as const;
      const { tensors } = await peer.ask(replica, 'stage.pull', request, { deadlineMs: 20_000, signal: t.signal });
      return tensors.get('transformer.wte.weight')?.data;
    }),
  );
  assert.ok(copies[0] && copies[1]);
  assert.deepEqual(Buffer.from(copies[0]), Buffer.from(copies[1]));
  assert.ok(transports.has('webrtc'), [...transports].join(' '));
  assert.deepEqual(tab.complaints, []);
});
