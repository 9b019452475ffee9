// Eight workers, three of them hostile in each way in turn: the five others learn as if nobody were, and leave the three out. The ways are
// shared out among files, because each is a run of its own.
import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { parseWorkerConfig } from '../../runtime/federated/config.ts';
import { stageInfo } from '../../runtime/model/spec.ts';
import { defaultUnitBytes } from '../../runtime/model/units.ts';
import { someMnist, startWorkers, type TestWorker } from './harness.ts';
import { tamperOf, type Kind } from './hostile.ts';

const ends: (() => unknown)[] = [];
after(async () => {
  for (const end of ends.reverse()) await end();
});
const workers = await startWorkers(
  { after: (end) => void ends.push(end as () => unknown) },
  await someMnist(24_000, 1_000),
);
const HONEST = 5;
const ALL = 8;

let runs = 0;
const configOf = (worker: number, defence: string): object => ({
  // A definition of its own for each run: none meets the workers of another.
  version: runs,
  worker,
  workers: ALL,
  topology: 'full',
  partition: { kind: 'iid' },
  model: { family: 'mlp', sizes: [784, 32, 10] },
  maxSteps: 300,
  evalEvery: 1_000,
  optimizer: { name: 'sgd', lr: 0.1 },
  schedule: { kind: 'linear', final: 0.1 },
  average: { planner: 'appg', intervalMs: 100, share: 1, defence },
  patienceMs: 20_000,
});

interface Outcome {
  honest: TestWorker[];
  ended: Awaited<TestWorker['ended']>[];
  /** Mean over the honest ones; NaN where one of them could not go on. */
  loss: number;
}

async function outcome(kind: Kind | null, defence = 'clip'): Promise<Outcome> {
  runs += 1;
  const config = parseWorkerConfig(configOf(0, defence));
  const { parameterBytes } = stageInfo(config.model, 0, 2);
  const tamper = kind === null ? undefined : tamperOf(kind, config, defaultUnitBytes(parameterBytes));
  const all = Array.from({ length: ALL }, (_, worker) =>
    workers.start(configOf(worker, defence), worker < HONEST ? undefined : tamper),
  );
  const honest = all.slice(0, HONEST);
  const ended = await Promise.all(honest.map((worker) => worker.ended));
  const losses = await Promise.all(honest.map((worker) => worker.loss.catch(() => NaN)));
  for (const worker of all) worker.stop();
  return { honest, ended, loss: losses.reduce((sum, loss) => sum + loss, 0) / HONEST };
}

const isHostile = (uid: string): boolean => Number(uid.split('.')[2]) >= HONEST;

/** Each of these ways with the defence, and each of those without. */
export function suite(kinds: readonly Kind[], undefended: readonly Kind[]): void {
  let clean = NaN;

  test('eight honest workers learn, and nobody is struck', async () => {
    const { honest, ended, loss } = await outcome(null);
    assert.ok(ended.every((one) => !(one instanceof Error)));
    assert.deepEqual(honest.flatMap((worker) => worker.all('peer.struck')), []); // prettier-ignore
    assert.ok(loss < 0.6, `loss ${loss}`);
    clean = loss;
  });

  for (const kind of kinds)
    test(`three of eight are hostile (${kind}): banned within 20 rounds, and the loss is within 5 % of the clean run`, async (t) => {
      const { honest, ended, loss } = await outcome(kind);
      for (const one of ended) assert.ok(!(one instanceof Error), String(one));
      for (const worker of honest) {
        const bans = worker.all('peer.banned');
        assert.deepEqual(worker.all('peer.struck').filter(({ peer }) => !isHostile(peer)), []); // prettier-ignore
        const banned = new Set(bans.map(({ peer }) => peer));
        assert.equal(banned.size, ALL - HONEST, `banned: ${[...banned].join(', ')}`);
        for (const { peer, round, reason } of bans) assert.ok(round <= 20, `${peer} only in round ${round}: ${reason}`);
      }
      assert.ok(loss <= clean * 1.05, `loss ${loss}, and ${clean} with eight honest workers`);
      t.diagnostic(`loss ${loss.toFixed(4)}, clean ${clean.toFixed(4)}`);
    });

  for (const kind of undefended)
    test(`without the defence the same run fails (${kind})`, async (t) => {
      const { ended, loss } = await outcome(kind, 'none');
      const failed = ended.filter((one) => one instanceof Error);
      for (const error of failed) assert.match(error.message, /NaN|diverged|not finite/);
      assert.ok(failed.length > 0 || !(loss <= clean * 1.5), `loss ${loss}, and ${clean} in the clean run`);
      t.diagnostic(`${failed.length} of ${HONEST} could not go on; mean loss ${loss.toFixed(4)}`);
    });
}
