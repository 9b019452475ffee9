// Rates of transfers that share lines: max–min fair after every start, end and change, and every byte arrives when the rates say so.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { Clock } from '../../runtime/simulate/events.ts';
import { Flows, type Flow, type Resource } from '../../runtime/simulate/flows.ts';

const NODES = 5;

interface Step {
  kind: 'start' | 'stop' | 'change';
  from: number;
  to: number;
  bytes: number;
  capacity: number;
  after: number;
}

const capacities = fc.oneof(
  { weight: 5, arbitrary: fc.integer({ min: 1, max: 100 }) },
  { weight: 1, arbitrary: fc.constant(Infinity) },
);
const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('start' as const, 'start' as const, 'stop' as const, 'change' as const),
  from: fc.nat(NODES - 1),
  to: fc.nat(NODES - 1),
  bytes: fc.integer({ min: 1, max: 500 }),
  capacity: fc.integer({ min: 1, max: 100 }),
  after: fc.double({ min: 0, max: 3, noNaN: true }),
});

interface Open {
  flow: Flow;
  resources: Resource[];
}

/** A flow is max–min fair where some resource of it is used up and nobody there is faster. */
function assertFair(open: readonly Open[]): void {
  for (const { flow, resources } of open) {
    const bottlenecks = resources.filter((resource) => {
      const users = open.filter((other) => other.resources.includes(resource));
      const used = users.reduce((sum, other) => sum + other.flow.rate, 0);
      assert.ok(used <= resource.capacity * (1 + 1e-9), `${used} of ${resource.capacity}`);
      const isFull = used >= resource.capacity * (1 - 1e-9);
      return isFull && users.every((other) => other.flow.rate <= flow.rate * (1 + 1e-9));
    });
    assert.ok(bottlenecks.length > 0, 'it could be faster without making a slower one slower');
  }
}

test('no line is over its capacity, none is idle while it is wanted, and shares are fair', () => {
  fc.assert(
    fc.property(
      fc.array(capacities, { minLength: 2 * NODES, maxLength: 2 * NODES }),
      fc.array(fc.integer({ min: 1, max: 60 }), { minLength: NODES * NODES, maxLength: NODES * NODES }),
      fc.array(step, { minLength: 1, maxLength: 25 }),
      (lines, links, steps) => {
        const clock = new Clock();
        const flows = new Flows(clock);
        const up = Array.from({ length: NODES }, (_, i) => flows.resource(lines[i] ?? 1));
        const down = Array.from({ length: NODES }, (_, i) => flows.resource(lines[NODES + i] ?? 1));
        const between = links.map((capacity) => flows.resource(capacity));
        const open: Open[] = [];
        let time = 0;
        for (const { kind, from, to, bytes, capacity, after } of steps) {
          if (kind === 'start') {
            const resources = [up[from], down[to], between[from * NODES + to]].filter((one) => one !== undefined);
            const entry: Open = {
              resources,
              flow: flows.start(bytes, resources, () => open.splice(open.indexOf(entry), 1)),
            };
            open.push(entry);
          } else if (kind === 'stop' && open.length > 0) {
            const [stopped] = open.splice(from % open.length, 1);
            if (stopped) assert.ok(flows.stop(stopped.flow) <= stopped.flow.bytes);
          } else {
            const resource = up[to];
            if (resource) flows.setCapacity(resource, capacity);
          }
          clock.run(clock.now); // rates follow when all that is due has happened
          assertFair(open);
          time += after;
          clock.run(time);
          assertFair(open);
        }
        clock.run(1e9);
        assert.equal(open.length, 0, 'everything arrives in the end');
      },
    ),
    { numRuns: 400 },
  );
});

test('two share a line, and the one that is left has it alone', () => {
  const clock = new Clock();
  const flows = new Flows(clock);
  const line = flows.resource(10);
  const done: [string, number][] = [];
  flows.start(50, [line], () => done.push(['short', clock.now]));
  flows.start(100, [line], () => done.push(['long', clock.now]));
  clock.run(100);
  assert.deepEqual(done, [['short', 10], ['long', 15]]); // prettier-ignore
});

test('a change of capacity counts from then on, and a stopped flow tells what has come', () => {
  const clock = new Clock();
  const flows = new Flows(clock);
  const link = flows.resource(10);
  const done: number[] = [];
  flows.start(100, [link], () => done.push(clock.now));
  clock.at(5, () => flows.setCapacity(link, 50));
  clock.run(5.5);
  const other = flows.start(1000, [flows.resource(8)], () => assert.fail('it was stopped'));
  clock.run(6.5);
  assert.deepEqual(done, [6]);
  assert.equal(flows.stop(other), 8);
  clock.run(1000);
});

test('where nothing binds, a transfer takes no time', () => {
  const clock = new Clock();
  const flows = new Flows(clock);
  const done: number[] = [];
  clock.at(3, () => flows.start(1e9, [flows.resource(Infinity)], () => done.push(clock.now)));
  clock.run(10);
  assert.deepEqual(done, [3]);
});
