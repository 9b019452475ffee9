// Waiting at a gate: every waiter settles, once, whichever comes first of the round, the end and the signal.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Gate } from '../../runtime/average/gate.ts';
import { MeshError } from '../../runtime/errors.ts';

const none = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** `open`, or why not: a code, or the signal's reason. */
const outcomeOf = (waiting: Promise<void>): Promise<unknown> =>
  waiting.then(
    () => 'open',
    (cause: unknown) => (cause instanceof MeshError ? cause.code : cause),
  );

test('a round that is there, one that comes, one that is skipped', async () => {
  const gate = new Gate();
  assert.equal(gate.reached, -1);
  gate.reach(3);
  await gate.until(2, none);
  await gate.until(3, none);
  const [later, skipped] = [outcomeOf(gate.until(5, none)), outcomeOf(gate.until(4, none))];
  gate.reach(2);
  await turn();
  assert.equal(gate.reached, 3, 'it never goes back');
  gate.reach(7);
  assert.deepEqual(await Promise.all([later, skipped]), ['open', 'open']);
});

test('closed: whoever waits is told, and whoever comes; what is there still is', async () => {
  const gate = new Gate();
  gate.reach(0);
  const waiting = [outcomeOf(gate.until(1, none)), outcomeOf(gate.when(() => false, none))];
  gate.close('the stage was closed');
  assert.deepEqual(await Promise.all(waiting), ['closed', 'closed']);
  await assert.rejects(gate.until(9, none), { code: 'closed', message: 'the stage was closed' });
  await gate.until(0, none);
});

test('an aborted signal goes before everything else, with its own reason', async () => {
  const gate = new Gate();
  gate.reach(5);
  await assert.rejects(gate.until(0, AbortSignal.abort('gone')), (cause) => cause === 'gone');
  const stop = new AbortController();
  const waiting = outcomeOf(gate.until(6, stop.signal));
  stop.abort('no longer wanted');
  assert.equal(await waiting, 'no longer wanted');
});

test('a condition is looked at whenever something was told, and nothing is left at the signal', async () => {
  const gate = new Gate();
  const stop = new AbortController();
  let looks = 0;
  const waiting = gate.when(() => (looks += 1) > 40, stop.signal);
  for (let i = 0; i < 40; i += 1) {
    gate.tell();
    await turn();
    assert.ok(getEventListeners(stop.signal, 'abort').length <= 1);
  }
  await waiting;
  assert.equal(looks, 41);
  assert.equal(getEventListeners(stop.signal, 'abort').length, 0);
});

test('every waiter settles exactly once, in whatever order things happen', async () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constant('wait' as const), round: fc.nat(6) }),
    fc.record({ kind: fc.constant('reach' as const), round: fc.nat(6) }),
    fc.record({ kind: fc.constant('abort' as const), which: fc.nat(8) }),
    fc.record({ kind: fc.constant('tell' as const) }),
    fc.record({ kind: fc.constant('close' as const) }),
    fc.record({ kind: fc.constant('turn' as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 30 }), async (events) => {
      const gate = new Gate();
      const waiters: { stop: AbortController; round: number; settled: unknown[] }[] = [];
      for (const one of events)
        switch (one.kind) {
          case 'wait': {
            const waiter = { stop: new AbortController(), round: one.round, settled: [] as unknown[] };
            waiters.push(waiter);
            void outcomeOf(gate.until(one.round, waiter.stop.signal)).then((outcome) => waiter.settled.push(outcome));
            break;
          }
          case 'reach':
            gate.reach(one.round);
            break;
          case 'abort':
            waiters[one.which]?.stop.abort('aborted');
            break;
          case 'tell':
            gate.tell();
            break;
          case 'close':
            gate.close('over');
            break;
          case 'turn':
            await turn();
            break;
          default:
            one satisfies never;
        }
      await turn();
      const isClosed = events.some(({ kind }) => kind === 'close');
      for (const { stop, round, settled } of waiters) {
        const must = gate.reached >= round || isClosed || stop.signal.aborted;
        assert.equal(settled.length, must ? 1 : 0);
        if (settled[0] === 'open') assert.ok(gate.reached >= round);
        if (settled[0] === 'closed') assert.ok(isClosed);
        if (settled[0] === 'aborted') assert.ok(stop.signal.aborted);
      }
      gate.close('the end');
      await turn();
      for (const { settled, stop } of waiters) {
        assert.equal(settled.length, 1);
        assert.equal(getEventListeners(stop.signal, 'abort').length, 0);
      }
    }),
    { numRuns: 200 },
  );
});
