// A peer's Ed25519 identity and what it signs. The public key is the peer id. Keys never leave WebCrypto.
import type { PeerId } from '../wire/ids.ts';
import { peerIdSchema } from '../wire/ids.ts';
import {
  MAX_CLOCK_SKEW_MS,
  MAX_RECORD_TTL_MS,
  recordSchema,
  type MeshRecord,
  type SignedRecord,
} from '../wire/records.ts';
import { MeshError } from '../errors.ts';

export interface Identity {
  readonly peer: PeerId;
  /** Signature of the UTF-8 text, base64url. `purpose` separates the uses, so that no signature fits another place. */
  sign(purpose: Purpose, text: string): Promise<string>;
}

export type Purpose = 'join' | 'record' | 'link';

export async function createIdentity(): Promise<Identity> {
  const { privateKey, publicKey } = await crypto.subtle.generateKey({ name: 'Ed25519' }, false, ['sign', 'verify']);
  const raw = new Uint8Array(await crypto.subtle.exportKey('raw', publicKey));
  return {
    peer: peerIdSchema.parse(base64UrlOf(raw)),
    sign: async (purpose, text) =>
      base64UrlOf(new Uint8Array(await crypto.subtle.sign('Ed25519', privateKey, signedBytes(purpose, text)))),
  };
}

export async function verify(peer: PeerId, purpose: Purpose, text: string, signature: string): Promise<boolean> {
  const key = await crypto.subtle.importKey('raw', bytesOfBase64Url(peer), { name: 'Ed25519' }, false, ['verify']);
  return crypto.subtle.verify('Ed25519', key, bytesOfBase64Url(signature), signedBytes(purpose, text));
}

export async function signRecord(identity: Identity, record: MeshRecord): Promise<SignedRecord> {
  const payload = JSON.stringify(record);
  return { payload, signature: await identity.sign('record', payload) };
}

/** The record, if its signature is that of the peer it names and it is alive at `nowMs`. Throws `forged-record` or `expired-record`. */
export async function openRecord(signed: SignedRecord, nowMs: number): Promise<MeshRecord> {
  const record = parsePayload(signed.payload);
  if (!(await verify(record.peer, 'record', signed.payload, signed.signature)))
    throw forged(`The record ${record.name} does not carry the signature of the peer that it names.`);
  if (record.expiresAt <= nowMs)
    throw new MeshError(
      'expired-record',
      `The record ${record.name} expired ${nowMs - record.expiresAt} ms ago.`,
      'Announce it again; if it was just made, check that the clocks of the machines agree.',
    );
  if (record.issuedAt > nowMs + MAX_CLOCK_SKEW_MS || record.expiresAt - record.issuedAt > MAX_RECORD_TTL_MS)
    throw new MeshError(
      'expired-record',
      `The record ${record.name} claims a life from ${record.issuedAt} to ${record.expiresAt}, which is not believable at ${nowMs}.`,
      'Check the clock of the machine that made it.',
    );
  return record;
}

function parsePayload(payload: string): MeshRecord {
  let json: unknown;
  try {
    json = JSON.parse(payload);
  } catch (cause) {
    throw forged('A record is not JSON.', cause);
  }
  const parsed = recordSchema.safeParse(json);
  if (!parsed.success)
    throw forged(
      `A record breaks its schema: ${parsed.error.issues[0]?.path.join('.')} ${parsed.error.issues[0]?.message}.`,
    );
  return parsed.data;
}

const signedBytes = (purpose: Purpose, text: string): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(`skein-${purpose}:${text}`);

const forged = (message: string, cause?: unknown): MeshError =>
  new MeshError('forged-record', message, 'The sender is broken or hostile; nothing was stored.', { cause });

export function base64UrlOf(bytes: Uint8Array): string {
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}

export function bytesOfBase64Url(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text.replaceAll('-', '+').replaceAll('_', '/'));
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

/** 32 random bytes, base64url: nonces, tokens, session names. */
export const randomText = (): string => base64UrlOf(crypto.getRandomValues(new Uint8Array(32)));
