// Transport through the monitor: slow, and it always works. One byte in front of each message tells open, data and close apart.
// What passes is authenticated end to end by the handshake; it is not hidden from the monitor.
import { MeshError } from '../errors.ts';
import { Inbox, pipeClosed, type Pipe } from '../wire/pipe.ts';
import type { PeerId } from '../wire/ids.ts';
import { randomText } from './identity.ts';
import type { Sessions } from './sessions.ts';
import type { Transport } from './transport.ts';

const OPEN = 0;
const DATA = 1;
const CLOSE = 2;

export function relayTransport(sessions: Sessions): Transport {
  let onPipe: ((pipe: Pipe) => void) | null = null;
  const pipes = new Set<Pipe>();
  const attach = (peer: PeerId, session: string): Pipe => {
    const pipe = relayPipe(sessions, peer, session, () => pipes.delete(pipe));
    pipes.add(pipe);
    return pipe;
  };
  sessions.accept('relay', (from, session, message) => {
    if (message.kind === 'relay' && message.bytes[0] === OPEN && onPipe) onPipe(attach(from, session));
  });
  return {
    kind: 'relay',
    unreachable: () => (sessions.monitor.isConnected ? null : 'the monitor is not connected'),
    dial: (target) => {
      if (!sessions.monitor.isConnected)
        return Promise.reject(
          new MeshError(
            'unreachable',
            'The relay needs the monitor, which is not connected.',
            'Wait until the monitor is back.',
          ),
        );
      const session = `relay-${randomText()}`;
      const pipe = attach(target.peer, session);
      sessions.monitor.relay(target.peer, session, Uint8Array.of(OPEN));
      return Promise.resolve(pipe);
    },
    listen: (listener) => {
      onPipe = listener;
    },
    close: () => {
      for (const pipe of pipes) pipe.close('this peer leaves');
      return Promise.resolve();
    },
  };
}

function relayPipe(sessions: Sessions, peer: PeerId, session: string, onEnd: () => void): Pipe {
  const inbox = new Inbox();
  const end = (reason: string): void => {
    if (!inbox.end(reason)) return;
    forget();
    onEnd();
  };
  const forget = sessions.open(session, (message) => {
    switch (message.kind) {
      case 'relay':
        if (message.from !== peer) return;
        if (message.bytes[0] === CLOSE) end('the other end closed it');
        else if (message.bytes[0] === DATA && !inbox.push(message.bytes.slice(1))) end('the other end does not listen');
        return;
      case 'absent':
        end('the monitor does not know that peer');
        return;
      case 'lost':
        end(`the monitor is gone: ${message.reason}`);
        return;
      case 'signal':
        return;
      default:
        message satisfies never;
    }
  });
  return {
    transport: 'relay',
    maxMessageBytes: 64 * 1024,
    binding: '',
    send: (message) => {
      if (inbox.closedReason !== null) return Promise.reject(pipeClosed(inbox.closedReason));
      const out = new Uint8Array(message.byteLength + 1);
      out[0] = DATA;
      out.set(message, 1);
      sessions.monitor.relay(peer, session, out);
      return Promise.resolve();
    },
    listen: (listener) => inbox.listen(listener),
    close: (reason) => {
      if (inbox.closedReason === null && sessions.monitor.isConnected)
        sessions.monitor.relay(peer, session, Uint8Array.of(CLOSE));
      end(reason);
    },
  };
}
