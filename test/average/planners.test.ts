// What every planner promises, on random neighbourhoods: also with peers of whom nothing is known, or nothing sensible.
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from '../support/fast-check.ts';
import { plannerOf, PLANNER_NAMES, plannerSpecSchema, type PlannerSpec } from '../../runtime/average/planners/index.ts';
import type { Plan, PlanInput } from '../../runtime/average/planner.ts';
import { askable, given, inputOf } from './inputs.ts';

const SPECS: readonly PlannerSpec[] = [
  ...PLANNER_NAMES,
  { name: 'mpls', fill: 'paper', tau1: 1 },
  { name: 'mpls', fill: 'none', tau2: 1 },
  { name: 'mpls', tau1: 0, tau2: 0 },
  { name: 'epidemic', peers: 1 },
  { name: 'divshare', peers: 5 },
];
const RUNS = 600;

const nameOf = (spec: PlannerSpec): string => (typeof spec === 'string' ? spec : JSON.stringify(spec));
const withoutSpares = (plan: Plan): object => ({ ...plan, spares: null });

/** How much of a unit's new weights is its own, where each peer that is asked for it answers. */
function sharesOf(plan: Plan, unit: number): { own: number; theirs: number[] } {
  const from = plan.pulls.filter(({ units }) => units.includes(unit)).map(({ peer }) => peer);
  const { mixing } = plan;
  const theirs = from.map((peer) => (mixing.kind === 'uniform' ? 1 / (from.length + 1) : (mixing.of[peer] ?? 0)));
  return { own: 1 - theirs.reduce((a, b) => a + b, 0), theirs };
}

function check(spec: PlannerSpec, input: PlanInput, plan: Plan): void {
  const able = askable(input);
  const ids = new Set(able.map(({ id }) => id));
  assert.equal(new Set(plan.pulls.map(({ peer }) => peer)).size, plan.pulls.length, 'each peer once');
  for (const { peer, units, etaSeconds } of plan.pulls) {
    assert.ok(ids.has(peer), 'only peers that can be asked');
    assert.ok(units.length > 0);
    assert.ok(
      units.every((unit, i) => unit < input.unitBytes.length && unit > (units[i - 1] ?? -1)),
      'ascending',
    );
    assert.ok(etaSeconds >= 0, 'and no NaN');
  }
  if (able.length === 0 || spec === 'none') return assert.deepEqual(plan.pulls, []);
  for (const unit of input.unitBytes.keys()) {
    const { own, theirs } = sharesOf(plan, unit);
    assert.ok(theirs.length > 0, `unit ${unit} is covered`);
    assert.ok(
      [own, ...theirs].every((share) => share >= -1e-12 && share <= 1),
      `${own} and ${theirs.join()}`,
    );
    for (const id of plan.spares?.(unit) ?? []) {
      assert.ok(ids.has(id));
      if (plan.mixing.kind === 'weights') assert.ok((plan.mixing.of[id] ?? 0) > 0, 'a spare counts where it answers');
    }
  }
  if (able.length === 1)
    assert.deepEqual(plan.pulls.map(({ units }) => units), [[...input.unitBytes.keys()]]); // prettier-ignore
}

for (const spec of SPECS)
  test(`${nameOf(spec)}: covers every unit, mixes to one, and does not depend on the order of the peers`, () => {
    const planner = plannerOf(spec);
    fc.assert(
      fc.property(given(), fc.nat(), (one, turn) => {
        const input = inputOf(one);
        const plan = planner.plan(input);
        check(spec, input, plan);
        const { peers } = one.input;
        const by = peers.length === 0 ? 0 : turn % peers.length;
        const turned = [...peers.slice(by), ...peers.slice(0, by)];
        const other = turn % 2 === 0 ? turned : turned.toReversed();
        const again = planner.plan({ ...inputOf(one), peers: other });
        assert.deepEqual(withoutSpares(again), withoutSpares(plan));
        for (const unit of input.unitBytes.keys()) assert.deepEqual(again.spares?.(unit), plan.spares?.(unit));
      }),
      { numRuns: RUNS },
    );
  });

test('which planners are in step, and which change both sides', () => {
  const all = PLANNER_NAMES.map((name) => plannerOf(name));
  assert.deepEqual(all.map(({ name }) => name), PLANNER_NAMES); // prettier-ignore
  const synchronous = all.filter(({ isSynchronous }) => isSynchronous).map(({ name }) => name);
  assert.deepEqual(synchronous, ['d-psgd', 'all-reduce']);
  const input: PlanInput = {
    ...{ self: 's', unitBytes: [1, 2], downlink: 5, random: () => 0.4, round: 0 },
    peers: [{ id: 'a', bytesPerSecond: 1, divergence: 0, progress: [], degree: 4 }],
  };
  const exchanging = all.filter((planner) => planner.plan(input).isExchange === true).map(({ name }) => name);
  assert.deepEqual(exchanging, ['ad-psgd']);
  assert.deepEqual(plannerOf('d-psgd').plan(input).mixing, { kind: 'weights', of: { a: 0.2 } });
});

test('how many peers: epidemic whole models, divshare each unit', () => {
  fc.assert(
    fc.property(given({ least: 1 }), fc.integer({ min: 1, max: 6 }), (one, peers) => {
      const input = inputOf(one);
      const wanted = Math.min(peers, askable(input).length);
      assert.equal(plannerOf({ name: 'epidemic', peers }).plan(input).pulls.length, wanted);
      const { pulls } = plannerOf({ name: 'divshare', peers }).plan(inputOf(one));
      for (const unit of input.unitBytes.keys())
        assert.equal(pulls.filter(({ units }) => units.includes(unit)).length, wanted);
    }),
    { numRuns: 300 },
  );
});

test('a specification is a name or an object, and unknown keys are errors', () => {
  const parse = (value: unknown): boolean => plannerSpecSchema.safeParse(value).success;
  assert.ok(parse('mpls') && parse({ name: 'mpls', fill: 'none', tau1: 1 }) && parse({ name: 'epidemic', peers: 4 }));
  const wrong = ['fedavg', { name: 'mpls', fil: 'none' }, { name: 'appg', peers: 2 }, { name: 'mpls', tau1: 2 }, {}];
  for (const value of wrong) assert.ok(!parse(value), JSON.stringify(value));
});
