// Asynchronous runs whose replicas average by a planner, or train with low communication, as the run's configuration says: real processes,
// every microbatch once, and a model that has learned.
import assert from 'node:assert/strict';
import test from 'node:test';
import { parseRunConfig } from '../../runtime/train/config.ts';
import { smallMnist, trainMeshed } from '../support/training.ts';
import { startMesh } from '../support/mesh.ts';
import type { Running } from '../support/processes.ts';

const ROWS = 3_000;
const base = {
  model: { family: 'mlp', sizes: [784, 32, 10] },
  mode: 'async',
  policy: 'all',
  batch: 60,
  microbatch: 60,
  epochs: 4,
  optimizer: { name: 'sgd', lr: 0.1 },
  averageEvery: 10,
  evalRows: 500,
  patienceMs: 60_000,
};

test('async replicas average and exchange layers as `average` says', { timeout: 170_000 }, async (t) => {
  const mesh = await startMesh(t);
  const hosts: { host: Running; kind: string }[] = [];
  for (const [version, kind] of [[1, 'mpls'], [2, 'diloco']] as const) // prettier-ignore
    for (const replica of [0, 1])
      hosts.push(await mesh.serveReady([`front.${version}.${replica}.0`, `back.${version}.${replica}.0`]).then((host) => ({ host, kind }))); // prettier-ignore
  for (const [version, average] of [
    [1, { planner: 'mpls', unitBytes: 4096 }],
    [2, { outer: { kind: 'diloco', rate: 0.7, momentum: 0.5 }, format: 'int8' }],
  ] as const)
    await t.test(JSON.stringify(average), async () => {
      const config = parseRunConfig({ ...base, version, average });
      const data = await smallMnist(config, ROWS);
      const { events } = await trainMeshed(config, data, mesh.joinUrl, ['tcp']).done;
      const done = events.find((event) => event.kind === 'run.done');
      assert.equal(done?.appliedMicrobatches, done?.plannedMicrobatches);
      assert.ok((done?.accuracy ?? 0) > 0.6, `accuracy ${done?.accuracy}`);
      const averaged = events.filter((event) => event.kind === 'stages.averaged');
      for (const stage of ['front', 'back']) {
        const own = averaged.filter((event) => event.stage === stage);
        assert.ok(own.length >= 3, `${own.length} averages of ${stage}`);
        assert.ok(own.some(({ replicas }) => replicas.length === 2));
      }
      assert.deepEqual(events.filter((event) => event.kind === 'log' && event.level === 'warn'), []); // prettier-ignore
      const kind = version === 1 ? 'mpls' : 'diloco';
      for (const { host } of hosts.filter((one) => one.kind === kind)) {
        await host.event('layers.merged'); // what it prints comes when it comes
        assert.ok(host.all('layers.merged').every(({ peers }) => peers.length > 0));
        assert.deepEqual(host.all('peer.struck'), []);
        assert.deepEqual(host.all('log'), []);
      }
    });
});
