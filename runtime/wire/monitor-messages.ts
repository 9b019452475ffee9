// The messages between a peer and the monitor (Socket.IO events). Every client call is acknowledged with a MonitorReply.
// Order of life: the server sends `challenge`; the peer answers `join`; before that nothing else is accepted.
import { z } from 'zod';
import { peerIdSchema } from './ids.ts';
import { signedRecordSchema } from './records.ts';

/** Largest binary message that the relay passes on. */
export const MAX_RELAY_BYTES = 64 * 1024 + 64;
/** Longest event, as JSON, that the monitor keeps for its observers. */
export const MAX_EVENT_CHARACTERS = 16 * 1024;
const prefix = z.string().max(100);

export const challengeSchema = z.strictObject({
  nonce: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
  protocol: z.literal(1),
  /** The monitor's clock, milliseconds since the epoch: records are issued and judged by it, so that peers' clocks may be wrong. */
  now: z.int().min(0),
});

/** Client to monitor, by event name. */
export const clientMessages = {
  join: z.strictObject({
    peer: peerIdSchema,
    role: z.enum(['server', 'client', 'worker', 'observer']),
    token: z.string().max(200),
    /** Ed25519 over `skein-join:` + nonce, base64url. */
    signature: z.string().regex(/^[A-Za-z0-9_-]{86}$/),
  }),
  announce: z.strictObject({ records: z.array(signedRecordSchema).min(1).max(64) }),
  withdraw: z.strictObject({ names: z.array(z.string().max(100)).min(1).max(64) }),
  discover: z.strictObject({ prefix }),
  /** As discover, and from then on every change comes as `records`. */
  watch: z.strictObject({ prefix }),
  /** WebRTC offers, answers and candidates for another peer. */
  signal: z.strictObject({ to: peerIdSchema, session: z.string().max(64), data: z.string().max(32_768) }),
  relay: z.strictObject({
    to: peerIdSchema,
    session: z.string().max(64),
    bytes: z.custom<Uint8Array>((v) => v instanceof Uint8Array && v.byteLength <= MAX_RELAY_BYTES),
  }),
  /** Events for the dashboards (JSON of MeshEvent); the monitor keeps the newest ones. */
  publish: z.strictObject({
    events: z
      .array(z.looseObject({ kind: z.string().max(64) }))
      .min(1)
      .max(256),
  }),
  /** The newest events now, and from then on each as `events`. */
  observe: z.strictObject({}),
};
export type ClientMessage = keyof typeof clientMessages;

/** Monitor to client, by event name. */
export const monitorMessages = {
  challenge: challengeSchema,
  records: z.strictObject({
    added: z.array(signedRecordSchema),
    removed: z.array(z.strictObject({ name: z.string(), peer: peerIdSchema, reason: z.string() })),
  }),
  signal: z.strictObject({ from: peerIdSchema, session: z.string(), data: z.string() }),
  relay: z.strictObject({
    from: peerIdSchema,
    session: z.string(),
    bytes: z.custom<Uint8Array>((v) => v instanceof Uint8Array || v instanceof ArrayBuffer),
  }),
  /** The peer that a signal or relay was meant for is not here. */
  absent: z.strictObject({ peer: peerIdSchema, session: z.string() }),
  events: z.strictObject({ events: z.array(z.looseObject({ kind: z.string() })) }),
};

const errorSchema = z.strictObject({ code: z.string(), message: z.string(), fix: z.string() });
export const failureSchema = z.strictObject({ ok: z.literal(false), error: errorSchema });

export const replies = {
  join: z.strictObject({
    iceServers: z.array(
      z.strictObject({
        urls: z.union([z.string(), z.array(z.string())]),
        username: z.string().optional(),
        credential: z.string().optional(),
      }),
    ),
  }),
  records: z.strictObject({ records: z.array(signedRecordSchema) }),
  /** The records that were not taken, and why; the others of the same call were. */
  announce: z.strictObject({ refused: z.array(z.strictObject({ name: z.string(), error: errorSchema })) }),
  done: z.strictObject({}),
  observe: z.strictObject({ events: z.array(z.looseObject({ kind: z.string() })) }),
};

export type MonitorReply<T = object> =
  ({ ok: true } & T) | { ok: false; error: { code: string; message: string; fix: string } };
