// The lending half of the page, the browser's sibling of node/serve.ts: this tab's peer with one hosted stage.
import { toMeshError } from '../runtime/errors.ts';
import type { StageHost } from '../runtime/server/host.ts';
import type { Uid } from '../runtime/wire/ids.ts';
import { figuresOf, joinFromTab, pauseStages, type JoinOptions, type Loan, type TabPeer } from './tab-peer.ts';

const DRAIN_MS = 4_000;
const MAX_TRIES = 16;

export interface LendOptions extends JoinOptions {
  /** The UID to host. Asked again, with those that turned out to be held by others, until one is free. */
  pick: (taken: ReadonlySet<string>) => Uid;
}

/** Throws `no-gpu`, `unauthorized`, `unreachable`, `busy`; nothing is left behind then. */
export async function lend(options: LendOptions): Promise<Loan> {
  const tab = await joinFromTab('server', options);
  try {
    options.tell('Announcing the stage');
    const { host, uid } = await announceFree(tab, options.pick);
    tab.bus.emit({ kind: 'stage.ready', uid, port: null });
    return loanOf(tab, host, uid);
  } catch (cause) {
    await tab.close('lending did not begin');
    throw cause;
  }
}

/** Others may take the same index in the same moment: the monitor says who was first, and the rest take the next one. */
async function announceFree(
  { peer, monitor, makeHost }: TabPeer,
  pick: (taken: ReadonlySet<string>) => Uid,
): Promise<{ host: StageHost; uid: Uid }> {
  const taken = new Set<string>();
  for (;;) {
    const uid = pick(taken);
    const host = makeHost();
    host.add(uid);
    peer.serve(host.handlers);
    try {
      await host.announce(monitor);
      return { host, uid };
    } catch (cause) {
      host.close();
      taken.add(uid);
      if (toMeshError(cause).code !== 'busy' || taken.size >= MAX_TRIES) throw cause;
    }
  }
}

function loanOf(tab: TabPeer, host: StageHost, uid: Uid): Loan {
  const { peer, monitor, died } = tab;
  const close = async (): Promise<void> => {
    host.close();
    await tab.close('the tab leaves the mesh');
  };
  return {
    uid,
    died,
    figures: () => figuresOf(host, peer),
    pause: (isPaused) => pauseStages(host, monitor, isPaused),
    leave: async () => {
      try {
        await host.withdraw(monitor);
        await host.drain(DRAIN_MS);
      } finally {
        await close();
      }
    },
    abandon: () => {
      // Nobody is left to tell: the page is gone before this settles.
      close().catch(() => undefined);
    },
  };
}
