// A frame: one message with its tensors, in the safetensors layout. The envelope travels in the header's metadata, tensors as raw
// bytes behind it; bulk never passes through JSON.
import { z } from 'zod';
import { MeshError } from '../errors.ts';
import { decode, encodeHeader } from '../safetensors.ts';
import type { Tensors } from '../tensor.ts';
import { malformed } from './chunk.ts';

export const MAX_DEADLINE_MS = 3_600_000;
export const MAX_ERROR_TEXT = 4_000;
/** A header is parsed as one piece, on the thread that also answers pings. */
const MAX_HEADER_BYTES = 8 << 20;

const envelopeSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('request'),
    id: z.int().min(1),
    kind: z.string().max(64),
    deadlineMs: z.number().positive().max(MAX_DEADLINE_MS),
    body: z.unknown(),
  }),
  z.strictObject({ type: z.literal('reply'), id: z.int().min(1), body: z.unknown() }),
  z.strictObject({
    type: z.literal('error'),
    id: z.int().min(1),
    error: z.strictObject({
      code: z.string().max(32),
      message: z.string().max(MAX_ERROR_TEXT),
      fix: z.string().max(MAX_ERROR_TEXT),
    }),
  }),
  /** The asker no longer wants the answer. */
  z.strictObject({ type: z.literal('cancel'), id: z.int().min(1) }),
]);
export type Envelope = z.infer<typeof envelopeSchema>;

export interface Frame {
  envelope: Envelope;
  tensors: Tensors;
}

/** The parts to send, in order: header, then each tensor's own bytes (not copied). Throws `too-large`. */
export function encodeFrame(envelope: Envelope, tensors: Tensors = new Map()): Uint8Array<ArrayBuffer>[] {
  const header = encodeHeader(tensors, { skein: JSON.stringify(envelope) });
  if (header.byteLength - 8 > MAX_HEADER_BYTES)
    throw new MeshError(
      'too-large',
      `A message of ${header.byteLength} bytes, tensors aside, exceeds the limit of ${MAX_HEADER_BYTES}.`,
      'Send bulk as tensors.',
    );
  const parts = [header];
  for (const tensor of tensors.values()) if (tensor.data.byteLength > 0) parts.push(tensor.data);
  return parts;
}

/** Throws `malformed`. Tensors are views into `bytes`. */
export function decodeFrame(bytes: Uint8Array<ArrayBuffer>): Frame {
  const { tensors, metadata } = decode(bytes, MAX_HEADER_BYTES);
  let json: unknown;
  try {
    json = JSON.parse(metadata.skein ?? '');
  } catch (cause) {
    throw malformed('a frame without an envelope', cause);
  }
  const parsed = envelopeSchema.safeParse(json);
  if (!parsed.success) throw malformed(`an envelope that breaks its schema: ${parsed.error.issues[0]?.message ?? ''}`);
  return { envelope: parsed.data, tensors };
}
