// Transfers that share uplinks, downlinks and links: max–min fair rates by progressive filling, as many TCP or SCTP streams side by side
// come close to. Rates are computed anew when a flow starts or ends or a capacity changes, and only for the flows that share something with
// it, however indirectly. Sizes in bytes, times in virtual seconds.
import type { Clock, Timer } from './events.ts';

export interface Resource {
  /** Bytes a second; Infinity binds nobody. */
  readonly capacity: number;
}

interface Shared extends Resource {
  capacity: number;
  readonly flows: Set<Moving>;
}

export interface Flow {
  readonly bytes: number;
  /** Bytes a second, as of now. */
  readonly rate: number;
  readonly startedAt: number;
}

interface Moving extends Flow {
  rate: number;
  moved: number;
  /** When `moved` was true. */
  at: number;
  readonly resources: readonly Shared[];
  readonly timer: Timer;
  isOver: boolean;
}

export class Flows {
  readonly #clock: Clock;
  /** What changed since rates were last computed. */
  readonly #dirty = new Set<Shared>();

  /** Takes the clock's `onQuiet`. */
  constructor(clock: Clock) {
    this.#clock = clock;
    clock.onQuiet = () => this.#settle();
  }

  resource(capacity: number): Resource {
    const made: Shared = { capacity, flows: new Set() };
    return made;
  }

  setCapacity(resource: Resource, capacity: number): void {
    const shared = resource as Shared;
    if (shared.capacity === capacity) return;
    // Flows that something else was shared with find each other through this resource only while it binds.
    const wasOpen = shared.capacity === Infinity;
    shared.capacity = capacity;
    if (shared.flows.size === 0) return;
    this.#dirty.add(shared);
    if (wasOpen || capacity === Infinity) for (const flow of shared.flows) this.#touch(flow);
  }

  /** `onDone` is called once, unless the flow is stopped before. At least one resource must be finite, or it takes no time. */
  start(bytes: number, resources: readonly Resource[], onDone: () => void): Flow {
    const { now } = this.#clock;
    const flow: Moving = {
      ...{ bytes, rate: 0, moved: 0, at: now, startedAt: now, isOver: false },
      resources: resources as readonly Shared[],
      timer: this.#clock.at(Infinity, () => {
        this.#end(flow);
        onDone();
      }),
    };
    for (const resource of flow.resources) resource.flows.add(flow);
    this.#touch(flow);
    if (flow.resources.every(({ capacity }) => capacity === Infinity)) this.#setRate(flow, Infinity);
    return flow;
  }

  /** Ends it before its time. Returns how many bytes have come. */
  stop(flow: Flow): number {
    const moving = flow as Moving;
    if (!moving.isOver) {
      this.#advance(moving);
      this.#clock.cancel(moving.timer);
      this.#end(moving);
    }
    return moving.moved;
  }

  #end(flow: Moving): void {
    this.#advance(flow);
    if (flow.timer.at <= this.#clock.now) flow.moved = flow.bytes;
    flow.isOver = true;
    for (const resource of flow.resources) resource.flows.delete(flow);
    this.#touch(flow);
  }

  #touch(flow: Moving): void {
    for (const resource of flow.resources) if (resource.capacity < Infinity) this.#dirty.add(resource);
  }

  #advance(flow: Moving): void {
    const { now } = this.#clock;
    if (now > flow.at && flow.rate > 0) flow.moved = Math.min(flow.bytes, flow.moved + flow.rate * (now - flow.at));
    flow.at = now;
  }

  #setRate(flow: Moving, rate: number): void {
    if (rate === flow.rate) return;
    this.#advance(flow);
    flow.rate = rate;
    this.#clock.move(flow.timer, rate > 0 ? this.#clock.now + (flow.bytes - flow.moved) / rate : Infinity);
  }

  #settle(): void {
    if (this.#dirty.size === 0) return;
    const seen = new Set<Shared>();
    for (const resource of this.#dirty) {
      if (seen.has(resource)) continue;
      const { flows, resources } = componentOf(resource, seen);
      for (const [flow, rate] of fairRates(flows, resources)) this.#setRate(flow, rate);
    }
    this.#dirty.clear();
  }
}

/** All that `from` shares something with; resources that bind nobody connect nobody. */
function componentOf(from: Shared, seen: Set<Shared>): { flows: Set<Moving>; resources: Shared[] } {
  const flows = new Set<Moving>();
  const resources = [from];
  seen.add(from);
  for (const resource of resources)
    for (const flow of resource.flows) {
      if (flows.has(flow)) continue;
      flows.add(flow);
      for (const other of flow.resources)
        if (other.capacity < Infinity && !seen.has(other)) {
          seen.add(other);
          resources.push(other);
        }
    }
  return { flows, resources };
}

interface Level {
  free: number;
  active: number;
  readonly flows: Filling[];
}

interface Filling {
  readonly flow: Moving;
  /** What it may have by resources that are its own. */
  cap: number;
  isFrozen: boolean;
  readonly levels: Level[];
}

/**
 * Progressive filling: all rates grow alike until a flow meets a cap of its own or a resource that it shares is used up, where it stays.
 * Flows that share nothing are frozen in the order of their caps, so that a step looks at the shared resources only.
 */
function fairRates(flows: ReadonlySet<Moving>, resources: readonly Shared[]): Map<Moving, number> {
  const fillings = new Map<Moving, Filling>();
  for (const flow of flows) fillings.set(flow, { flow, cap: Infinity, isFrozen: false, levels: [] });
  const levels: Level[] = [];
  for (const { capacity, flows: users } of resources) {
    const members = [...users].flatMap((flow) => fillings.get(flow) ?? []);
    const [only] = members;
    if (only && members.length === 1) only.cap = Math.min(only.cap, capacity);
    else if (only) {
      const level = { free: capacity, active: members.length, flows: members };
      levels.push(level);
      for (const member of members) member.levels.push(level);
    }
  }
  const rates = new Map<Moving, number>();
  const freeze = (filling: Filling, rate: number): void => {
    filling.isFrozen = true;
    rates.set(filling.flow, rate);
    for (const level of filling.levels) {
      level.free = Math.max(0, level.free - rate);
      level.active -= 1;
    }
  };
  const waiting = [...fillings.values()].sort((a, b) => (a.cap < b.cap ? -1 : a.cap > b.cap ? 1 : 0));
  let position = 0;
  while (rates.size < flows.size) {
    let lowest: Level | null = null;
    let water = Infinity;
    for (const level of levels) {
      const at = level.active > 0 ? level.free / level.active : Infinity;
      if (at < water) {
        water = at;
        lowest = level;
      }
    }
    const before = rates.size;
    // The water only rises when a flow stays below it.
    for (let next = waiting[position]; next && next.cap <= water; next = waiting[++position])
      if (!next.isFrozen) freeze(next, next.cap);
    if (rates.size > before) continue;
    for (const filling of lowest?.flows ?? []) if (!filling.isFrozen) freeze(filling, water);
    if (rates.size === before) break;
  }
  return rates;
}
