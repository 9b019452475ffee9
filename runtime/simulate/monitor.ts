// The network monitor that `netmax` needs: once a minute it hears from every worker what it has measured. It knows no more than they do.
import type { NetworkView } from '../average/planner.ts';
import { median } from '../average/planners/common.ts';
import type { World } from './collection.ts';

const PERIOD_SECONDS = 60;

/** undefined before the first period is over: nobody has measured anything. */
export class Monitor {
  #view: NetworkView | undefined;
  #at = 0;

  view(world: World): NetworkView | undefined {
    const { now } = world.clock;
    if (now - this.#at >= PERIOD_SECONDS) {
      this.#at = now - (now % PERIOD_SECONDS);
      this.#view = look(world);
    }
    return this.#view;
  }
}

/** A worker takes a neighbour that it has not pulled from for one of its usual ones. */
function look({ setup, members, network, clock }: World): NetworkView {
  const { neighbours, computeSeconds, modelBytes, config } = setup;
  const here = members.filter(({ isServing }) => isServing);
  const seconds = here.map((member) => {
    const rates = here.map(({ id }) => member.bandwidth.of(id, clock.now * 1000));
    const usual = median(rates.flatMap((rate) => rate ?? []));
    const own = computeSeconds[member.index] ?? 1;
    const linked = new Set(neighbours[member.index]);
    return here.map((other, i) => {
      if (other === member) return own;
      const rate = rates[i] ?? usual;
      if (rate === null || !linked.has(other.index)) return null;
      return Math.max(own, network.rttSeconds(member.index, other.index) + modelBytes / rate);
    });
  });
  return { ids: here.map(({ id }) => id), seconds, learningRate: config.learning.learningRate };
}
