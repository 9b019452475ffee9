// The page as a whole: what may be shown depends on how it stands with the monitor.
import type { State } from '../state.ts';
import type { Lender } from '../lending.ts';
import { AccessNotice } from './access-notice.tsx';
import { EventLog } from './event-log.tsx';
import { FederatedPanel } from './federated-panel.tsx';
import { Header } from './header.tsx';
import { LendCard } from './lend-card.tsx';
import { NextSteps } from './next-steps.tsx';
import { RunPanel } from './run-panel.tsx';
import { StagesTable } from './stages-table.tsx';

export function App({ state, lender }: { state: State; lender: Lender }) {
  const isJoined = state.access.value.kind === 'joined';
  return (
    <>
      <Header state={state} />
      <main>
        <LendCard state={state} lender={lender} />
        {isJoined ? (
          <>
            <FederatedPanel state={state} />
            <RunPanel state={state} />
            <StagesTable state={state} />
            <NextSteps state={state} />
            <EventLog state={state} />
          </>
        ) : (
          <AccessNotice state={state} />
        )}
      </main>
    </>
  );
}
