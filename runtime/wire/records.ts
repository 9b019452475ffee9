// Directory records as they travel: the payload is the exact JSON text that was signed, so no canonical form is needed.
import { z } from 'zod';
import { peerIdSchema, runIdSchema, stageNameSchema, uidSchema } from './ids.ts';

/** A record lives at most this long without being renewed; peers renew at a third of it. */
export const RECORD_TTL_MS = 9_000;
export const MAX_RECORD_TTL_MS = 60_000;
/** Clocks of peers and monitor may differ by this much. */
export const MAX_CLOCK_SKEW_MS = 120_000;

export const addressSchema = z.strictObject({
  transport: z.enum(['tcp', 'tls']),
  host: z.string().min(1).max(255),
  port: z.int().min(1).max(65535),
});
export type Address = z.infer<typeof addressSchema>;

const common = {
  peer: peerIdSchema,
  /** Milliseconds since the epoch; a newer one replaces an older one. */
  issuedAt: z.int().min(0),
  expiresAt: z.int().min(0),
};

/** A replica of a stage on a peer. */
const stageRecordSchema = z.strictObject({
  kind: z.literal('stage'),
  name: uidSchema,
  addresses: z.array(addressSchema).max(8),
  host: z.enum(['node', 'browser']),
  device: z.string().max(200),
  isSoftware: z.boolean(),
  /** Rows a second through this stage, measured; 0 while unknown. */
  samplesPerSecond: z.number().min(0),
  /** Of the peer's f32 products, measured before it announced itself, in 1e9 operations a second. */
  gflops: z.number().min(0).optional(),
  /** GPU memory that the peer has in use for all of its stages; absent before it has any. */
  memoryBytes: z.number().min(0).optional(),
  /** Requests being worked on. */
  load: z.int().min(0),
  /** It keeps its place and its weights, and takes no work for now. */
  isPaused: z.boolean(),
  /** The run it serves, or null. */
  run: runIdSchema.nullable(),
  /** Of a federated worker: its configuration as JSON, so that others can take a place among the workers. */
  federation: z.string().max(4_096).optional(),
  ...common,
});

/** A run that a client drives: what a newcomer can help with. */
const runRecordSchema = z.strictObject({
  kind: z.literal('run'),
  name: z.string().regex(/^run\/[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/),
  stages: z.array(stageNameSchema).min(1).max(64),
  version: z.int().min(0),
  subversion: z.int().min(0),
  mode: z.enum(['sync', 'async']),
  policy: z.enum(['all', 'disjoint', 'routed']),
  model: z.string().max(500),
  ...common,
});

export const recordSchema = z.discriminatedUnion('kind', [stageRecordSchema, runRecordSchema]);
export type MeshRecord = z.infer<typeof recordSchema>;
export type StageRecord = z.infer<typeof stageRecordSchema>;
export type RunRecord = z.infer<typeof runRecordSchema>;

export const signedRecordSchema = z.strictObject({
  payload: z.string().min(2).max(8_192),
  /** Ed25519 over the UTF-8 bytes of `skein-record:` + payload, base64url. */
  signature: z.string().regex(/^[A-Za-z0-9_-]{86}$/),
});
export type SignedRecord = z.infer<typeof signedRecordSchema>;
