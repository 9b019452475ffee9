// Transport over a WebRTC data channel (simple-peer over wrtc in Node, over the browser's own in a tab), introduced by the monitor.
// Both ends bind the link to the DTLS fingerprints, so that whoever introduces them cannot sit between them.
import SimplePeer from 'simple-peer';
import { MeshError } from '../errors.ts';
import { Inbox, pipeClosed, type Pipe } from '../wire/pipe.ts';
import type { PeerId } from '../wire/ids.ts';
import { randomText } from './identity.ts';
import type { Sessions } from './sessions.ts';
import type { Transport } from './transport.ts';

/**
 * Whoever says goodbye keeps its end open for so long, until the other end has gone: wrtc takes a channel that is closed from afar away from
 * under a `send` that is under way, and the process dies with it (SIGSEGV in RTCDataChannel::Send, once in about eight partings on a busy machine).
 */
const PARTING_MS = 1_000;
const FLUSH_MS = 50;

/** What every engine takes in one SCTP message. */
const MAX_MESSAGE_BYTES = 64 * 1024;

export interface WebRtcOptions {
  /** From the platform: the RTCPeerConnection family where the host has none. */
  wrtc?: object;
  /** Never simple-peer's public default. */
  iceServers: () => RTCIceServer[];
}

export function webrtcTransport(sessions: Sessions, options: WebRtcOptions): Transport {
  let onPipe: ((pipe: Pipe) => void) | null = null;
  const peers = new Set<SimplePeer.Instance>();
  /** Of these, those that have said goodbye. */
  const parting = new Set<SimplePeer.Instance>();
  const start = (
    peer: PeerId,
    session: string,
    initiator: boolean,
  ): { rtc: SimplePeer.Instance; pipe: Promise<Pipe> } => {
    const rtc = new SimplePeer({
      initiator,
      trickle: true,
      config: { iceServers: options.iceServers() },
      ...(options.wrtc ? { wrtc: options.wrtc as NonNullable<SimplePeer.Options['wrtc']> } : {}),
    });
    peers.add(rtc);
    const forget = sessions.open(session, (message) => {
      if (message.kind === 'signal' && message.from === peer) acceptSignal(rtc, message.data);
      else if (message.kind === 'absent') rtc.destroy(new Error('the monitor does not know that peer'));
    });
    rtc.on('signal', (data) => sessions.monitor.signal(peer, session, JSON.stringify(data)));
    rtc.once('close', () => {
      peers.delete(rtc);
      parting.delete(rtc);
      forget();
    });
    return { rtc, pipe: connected(rtc, () => parting.add(rtc)) };
  };
  sessions.accept('rtc', (from, session, message) => {
    if (message.kind !== 'signal' || !onPipe) return;
    const { rtc, pipe } = start(from, session, false);
    acceptSignal(rtc, message.data);
    // A dial that the other end gave up is its own to report.
    pipe.then(
      (open) => onPipe?.(open),
      () => rtc.destroy(),
    );
  });
  return {
    kind: 'webrtc',
    unreachable: () => (sessions.monitor.isConnected ? null : 'the monitor, which introduces peers, is not connected'),
    dial: async (target, signal) => {
      signal.throwIfAborted();
      const { rtc, pipe } = start(target.peer, `rtc-${randomText()}`, true);
      const abort = (): void => {
        rtc.destroy(new Error('the dial was given up'));
      };
      signal.addEventListener('abort', abort, { once: true });
      return pipe.finally(() => signal.removeEventListener('abort', abort));
    },
    listen: (listener) => {
      onPipe = listener;
    },
    close: async () => {
      for (const rtc of peers) if (!parting.has(rtc)) rtc.destroy();
      await Promise.all([...parting].map((rtc) => new Promise<void>((resolve) => rtc.once('close', resolve))));
    },
  };
}

function acceptSignal(rtc: SimplePeer.Instance, data: string): void {
  if (rtc.destroyed) return;
  try {
    rtc.signal(JSON.parse(data) as SimplePeer.SignalData);
  } catch (cause) {
    rtc.destroy(cause instanceof Error ? cause : new Error('malformed signal'));
  }
}

function connected(rtc: SimplePeer.Instance, onParting: () => void): Promise<Pipe> {
  const { promise, resolve, reject } = Promise.withResolvers<Pipe>();
  const inbox = new Inbox();
  let failure = 'the peer connection closed';
  rtc.once('connect', () => resolve(rtcPipe(rtc, inbox, onParting)));
  rtc.on('data', (data: Uint8Array) => {
    // A Node Buffer may share a pool: the bytes are made our own here, at the edge.
    if (!inbox.push(new Uint8Array(data))) rtc.destroy(new Error('the other end does not listen'));
  });
  rtc.on('error', (error) => {
    failure = error.message;
  });
  rtc.once('close', () => {
    inbox.end(failure);
    reject(
      new MeshError(
        'unreachable',
        `WebRTC did not connect: ${failure}.`,
        'The relay takes over; a TURN server (--ice) makes direct links possible behind strict firewalls.',
      ),
    );
  });
  return promise;
}

function rtcPipe(rtc: SimplePeer.Instance, inbox: Inbox, onParting: () => void): Pipe {
  return {
    transport: 'webrtc',
    maxMessageBytes: MAX_MESSAGE_BYTES,
    binding: fingerprints(rtc),
    // The mux's credits bound what lies in the channel's own buffer; wrtc has no event for a buffer that has drained.
    send: (message) => {
      if (inbox.closedReason !== null) return Promise.reject(pipeClosed(inbox.closedReason));
      try {
        rtc.send(message);
        return Promise.resolve();
      } catch (cause) {
        return Promise.reject(pipeClosed(cause instanceof Error ? cause.message : 'send failed'));
      }
    },
    listen: (listener) => inbox.listen(listener),
    // ICE asks every few seconds whether the other end still wants to hear. SCTP waits twice as long after each loss: a burst of them on a busy
    // machine or a poor link silences the channel for seconds.
    isAnswered: () => !rtc.destroyed && ANSWERED.has(connectionOf(rtc).iceConnectionState),
    close: (reason, isGoodbye = false) => {
      inbox.end(reason);
      if (rtc.destroyed) return;
      if (isGoodbye) onParting();
      // What was just sent still has to leave.
      const timer = setTimeout(() => rtc.destroy(), isGoodbye ? PARTING_MS : FLUSH_MS);
      rtc.once('close', () => clearTimeout(timer));
    },
  };
}

const ANSWERED = new Set<RTCIceConnectionState>(['connected', 'completed']);

const connectionOf = (rtc: SimplePeer.Instance): RTCPeerConnection =>
  (rtc as unknown as { _pc: RTCPeerConnection })._pc;

/** Both descriptions' DTLS fingerprints in a fixed order: equal on both ends, and different if anybody sits between them. */
function fingerprints(rtc: SimplePeer.Instance): string {
  const connection = connectionOf(rtc);
  const of = (description: RTCSessionDescription | null): string =>
    /a=fingerprint:(\S+ \S+)/.exec(description?.sdp ?? '')?.[1]?.toLowerCase() ?? '';
  return [of(connection.localDescription), of(connection.remoteDescription)].sort().join('|');
}
