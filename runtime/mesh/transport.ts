// The contract of a transport: it turns a target into a pipe, and offers the pipes that others opened to us. It authenticates nobody;
// the handshake does. Implementations: local and relay and webrtc here, tcp in node/.
import type { TransportKind } from '../events.ts';
import type { Pipe } from '../wire/pipe.ts';
import type { PeerId } from '../wire/ids.ts';
import type { Address } from '../wire/records.ts';

export interface Target {
  peer: PeerId;
  addresses: readonly Address[];
}

export interface Transport {
  readonly kind: TransportKind;
  /** Null if this way may lead to the target, else why it cannot. */
  unreachable(target: Target): string | null;
  /** Rejects `unreachable`, or with the signal's reason. */
  dial(target: Target, signal: AbortSignal): Promise<Pipe>;
  /** Pipes that others opened. At most one listener. */
  listen(onPipe: (pipe: Pipe) => void): void;
  close(): Promise<void>;
}
