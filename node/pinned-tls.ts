// Trust in exactly one certificate: the one whose SHA-256 the join link carries. A monitor's own certificate is signed by nobody,
// so the link vouches for it, and nothing is sent before it was seen.
import { Agent, type AgentOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import { connect, type ConnectionOptions } from 'node:tls';
import { MeshError } from '../runtime/errors.ts';
import type { JoinTarget } from '../runtime/mesh/join-url.ts';

/** Options for socket.io-client (`transportOptions` of joinMonitor): empty unless the link pins a certificate. */
export function pinnedTls(target: JoinTarget): { agent?: Agent } {
  if (!target.url.startsWith('https:') || target.certificateSha256 === undefined) return {};
  return { agent: new PinnedAgent(target.certificateSha256) };
}

class PinnedAgent extends Agent {
  readonly #sha256: string;

  constructor(sha256: string, options?: AgentOptions) {
    super({ ...options, keepAlive: false });
    this.#sha256 = sha256;
  }

  /** Hands the socket over only after the handshake, so that no byte of a request reaches a stranger. */
  override createConnection(
    options: ConnectionOptions,
    done?: (error: Error | null, socket: Duplex) => void,
  ): Duplex | null | undefined {
    // The chain ends in itself, so the usual check cannot pass; the comparison below takes its place.
    const socket = connect({ ...options, rejectUnauthorized: false });
    const onError = (error: Error) => done?.(error, socket);
    socket.once('error', onError);
    socket.once('secureConnect', () => {
      socket.off('error', onError);
      const seen = socket.getPeerX509Certificate()?.fingerprint256.replaceAll(':', '').toLowerCase();
      if (seen === this.#sha256) return done?.(null, socket);
      socket.destroy();
      done?.(
        new MeshError(
          'unauthorized',
          `The monitor showed the certificate ${seen?.slice(0, 16)}…, the join link names ${this.#sha256.slice(0, 16)}….`,
          'Ask for the newest join link; if that is the one, somebody else answers at this address: do not join.',
        ),
        socket,
      );
    });
    return undefined;
  }
}
