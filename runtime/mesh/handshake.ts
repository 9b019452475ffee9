// Who is at the other end: each proves its Ed25519 key and that it knows the mesh's token, over a transcript that holds both nonces
// and the pipe's binding, so that nothing said here fits another connection. Two messages each way, then the channel begins.
//
//   both → { hello, peer, nonce }      both → { proof, signature, mac }
import { z } from 'zod';
import { MeshError, toMeshError } from '../errors.ts';
import type { Pipe } from '../wire/pipe.ts';
import { peerIdSchema, type PeerId } from '../wire/ids.ts';
import { base64UrlOf, randomText, verify, type Identity } from './identity.ts';

const helloSchema = z.strictObject({
  skein: z.literal(1),
  dialer: z.boolean(),
  peer: peerIdSchema,
  nonce: z.string().length(43),
});
const proofSchema = z.strictObject({
  signature: z.string().regex(/^[A-Za-z0-9_-]{86}$/),
  mac: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
});

export interface HandshakeOptions {
  identity: Identity;
  token: string;
  isDialer: boolean;
  /** The peer that was meant to be dialled; null when it dialled us. */
  expected: PeerId | null;
  signal: AbortSignal;
}

/** Resolves with the proven peer; on any failure the pipe is closed. */
export async function handshake(pipe: Pipe, options: HandshakeOptions): Promise<PeerId> {
  try {
    const take = reader(pipe, options.signal);
    const nonce = randomText();
    await pipe.send(bytesOf({ skein: 1, dialer: options.isDialer, peer: options.identity.peer, nonce }));
    const hello = helloSchema.parse(await take());
    if (hello.dialer === options.isDialer || hello.peer === options.identity.peer)
      throw refused('the roles do not fit');
    if (options.expected !== null && hello.peer !== options.expected)
      throw refused(`peer ${hello.peer} answered instead of ${options.expected}`);
    const ends: [string, string] = [`${options.identity.peer}.${nonce}`, `${hello.peer}.${hello.nonce}`];
    const transcript = [...(options.isDialer ? ends : ends.reverse()), pipe.binding].join('|');
    const own = `${options.identity.peer}:${transcript}`;
    await pipe.send(
      bytesOf({ signature: await options.identity.sign('link', own), mac: await tokenMac(options.token, own) }),
    );
    const proof = proofSchema.parse(await take());
    const theirs = `${hello.peer}:${transcript}`;
    if (!(await verify(hello.peer, 'link', theirs, proof.signature))) throw refused('its signature is wrong');
    if (proof.mac !== (await tokenMac(options.token, theirs))) throw refused('it does not know the token of this mesh');
    return hello.peer;
  } catch (cause) {
    const error = cause instanceof z.ZodError ? refused('its handshake is malformed') : toMeshError(cause);
    pipe.close(error.message);
    throw error;
  }
}

/** The two messages of the handshake, one at a time; what comes after them stays in the pipe for the channel. */
function reader(pipe: Pipe, signal: AbortSignal): () => Promise<unknown> {
  const queue: unknown[] = [];
  let wake: (() => void) | null = null;
  let closed: string | null = null;
  let taken = 0;
  pipe.listen({
    message: (bytes) => {
      queue.push(jsonOf(bytes));
      taken += 1;
      if (taken === 2) pipe.listen(null);
      wake?.();
    },
    closed: (reason) => {
      closed = reason;
      wake?.();
    },
  });
  return async () => {
    while (queue.length === 0) {
      if (closed !== null) throw refused(closed);
      signal.throwIfAborted();
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
    }
    return queue.shift();
  };
}

async function tokenMac(token: string, text: string): Promise<string> {
  const encoder = new TextEncoder();
  const key = await crypto.subtle.importKey(
    'raw',
    encoder.encode(`skein-token:${token}`),
    { name: 'HMAC', hash: 'SHA-256' },
    false,
    ['sign'],
  );
  return base64UrlOf(new Uint8Array(await crypto.subtle.sign('HMAC', key, encoder.encode(text))));
}

const bytesOf = (value: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));

function jsonOf(bytes: Uint8Array<ArrayBuffer>): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes.subarray(0, 1_000)));
  } catch {
    return null; // refused by the schema of the message that was expected
  }
}

const refused = (why: string): MeshError =>
  new MeshError(
    'unauthorized',
    `The link was refused: ${why}.`,
    'Check that both peers joined the same mesh, with the same join link.',
  );
