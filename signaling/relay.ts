// Signals and relayed bytes from one peer to another. The sender's name is stamped here; who cannot be reached is `absent`.
import type { PeerId } from '../runtime/wire/ids.ts';
import type { Payload, Session } from './session.ts';

export type SessionOf = (peer: PeerId) => Session | undefined;

export function passSignal(from: Session, { to, session, data }: Payload<'signal'>, sessionOf: SessionOf): object {
  from.charge(0, data.length);
  pass(from, to, session, 'signal', { session, data }, sessionOf);
  return {};
}

export function passBytes(from: Session, { to, session, bytes }: Payload<'relay'>, sessionOf: SessionOf): object {
  from.charge(0, bytes.byteLength);
  pass(from, to, session, 'relay', { session, bytes }, sessionOf);
  return {};
}

function pass(from: Session, to: PeerId, session: string, name: string, message: object, sessionOf: SessionOf): void {
  const wasSent = sessionOf(to)?.send(name, { from: from.peer, ...message });
  if (!wasSent) from.send('absent', { peer: to, session });
}
