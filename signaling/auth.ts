// Who may join: the one token of this monitor, and proof of the key that a peer id names. Nothing here is logged.
import { createHash, timingSafeEqual } from 'node:crypto';
import { MeshError } from '../runtime/errors.ts';
import { verify } from '../runtime/mesh/identity.ts';
import type { PeerId } from '../runtime/wire/ids.ts';

/** A socket that has not joined by then is closed. */
export const JOIN_WITHIN_MS = 5_000;

/** Compares in constant time; a digest makes the lengths equal. */
export function createTokenCheck(token: string): (candidate: string) => boolean {
  const expected = digest(token);
  return (candidate) => timingSafeEqual(digest(candidate), expected);
}

/** Throws `unauthorized` unless the token is right and the nonce carries the signature of the peer. */
export async function checkJoin(
  join: { peer: PeerId; token: string; signature: string },
  nonce: string,
  isToken: (candidate: string) => boolean,
): Promise<void> {
  if (!isToken(join.token))
    throw new MeshError(
      'unauthorized',
      'The monitor does not know that token.',
      'Use the join link that the monitor printed at its start; a link of another monitor or state directory does not fit.',
    );
  if (!(await isSigned(join, nonce)))
    throw new MeshError(
      'unauthorized',
      'The answer to the challenge does not carry the signature of the peer that it names.',
      'Join with the key that the peer id was made from, and sign the newest challenge.',
    );
}

/** A peer id that is no point on the curve makes verifying throw; it is as forged as a wrong signature. */
async function isSigned(join: { peer: PeerId; signature: string }, nonce: string): Promise<boolean> {
  try {
    return await verify(join.peer, 'join', nonce, join.signature);
  } catch {
    return false;
  }
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
