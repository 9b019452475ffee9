// A frame: one message with its tensors, in the safetensors layout. The envelope travels in the header's metadata, tensors as raw
// bytes behind it; bulk never passes through JSON.
import { z } from 'zod';
import { decode, encodeHeader } from '../safetensors.ts';
import type { Tensors } from '../tensor.ts';
import { malformed } from './chunk.ts';

const envelopeSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('request'),
    id: z.int().min(1),
    kind: z.string().max(64),
    deadlineMs: z.number().positive().max(3_600_000),
    body: z.unknown(),
  }),
  z.strictObject({ type: z.literal('reply'), id: z.int().min(1), body: z.unknown() }),
  z.strictObject({
    type: z.literal('error'),
    id: z.int().min(1),
    error: z.strictObject({ code: z.string().max(32), message: z.string().max(4_000), fix: z.string().max(4_000) }),
  }),
  /** The asker no longer wants the answer. */
  z.strictObject({ type: z.literal('cancel'), id: z.int().min(1) }),
]);
export type Envelope = z.infer<typeof envelopeSchema>;

export interface Frame {
  envelope: Envelope;
  tensors: Tensors;
}

/** The parts to send, in order: header, then each tensor's own bytes (not copied). */
export function encodeFrame(envelope: Envelope, tensors: Tensors = new Map()): Uint8Array<ArrayBuffer>[] {
  const parts = [encodeHeader(tensors, { skein: JSON.stringify(envelope) })];
  for (const tensor of tensors.values()) if (tensor.data.byteLength > 0) parts.push(tensor.data);
  return parts;
}

/** Throws `malformed`. Tensors are views into `bytes`. */
export function decodeFrame(bytes: Uint8Array<ArrayBuffer>): Frame {
  const { tensors, metadata } = decode(bytes);
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
