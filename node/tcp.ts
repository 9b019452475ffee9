// Transport over TCP between Node processes: direct, plain or TLS. Messages are length-prefixed (u32 little-endian).
// With TLS the certificates are self-made; who is who is proven by the handshake, bound to the session by the TLS exporter.
import net from 'node:net';
import tls from 'node:tls';
import { MeshError } from '../runtime/errors.ts';
import { Inbox, pipeClosed, type Pipe } from '../runtime/wire/pipe.ts';
import type { Transport } from '../runtime/mesh/transport.ts';
import type { Emit } from '../runtime/events.ts';

const MAX_MESSAGE_BYTES = 256 * 1024;
const PREFIX_BYTES = 4;
/** A caller that has not finished its TLS handshake by then is cut off. */
const TLS_HANDSHAKE_MS = 5_000;

export interface TcpOptions {
  host: string;
  port: number;
  /** Take the next free port when `port` is in use (and say so), or fail. */
  nextFree: boolean;
  emit: Emit;
  /** Certificate and key: whoever dials this peer speaks TLS, which its addresses say. */
  tls?: { cert: string; key: string };
}

export interface TcpTransport extends Transport {
  readonly port: number;
  /** Further ports that lead to the same peer (one for each stage that it hosts). */
  listenAlso(port: number): Promise<number>;
}

export async function tcpTransport(options: TcpOptions): Promise<TcpTransport> {
  let onPipe: ((pipe: Pipe) => void) | null = null;
  const sockets = new Set<net.Socket>();
  const servers: net.Server[] = [];
  const take = (socket: net.Socket): Pipe => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return socketPipe(socket);
  };
  const accept = (socket: net.Socket): void => {
    const pipe = take(socket);
    if (onPipe) onPipe(pipe);
    else pipe.close('not ready');
  };
  const open = async (wanted: number): Promise<number> => {
    const server = options.tls
      ? tls.createServer({ ...options.tls, requestCert: false, handshakeTimeout: TLS_HANDSHAKE_MS }, accept)
      : net.createServer(accept);
    // Node reports the timeout and leaves the socket open, which would keep the server from closing.
    server.on('tlsClientError', (_error: Error, socket: net.Socket) => socket.destroy());
    const port = await bind(server, options, wanted);
    servers.push(server);
    return port;
  };
  const port = await open(options.port);
  return {
    kind: 'tcp',
    port,
    listenAlso: open,
    unreachable: (target) => (target.addresses.length > 0 ? null : 'it announced no address'),
    dial: async (target, signal) => {
      const errors: string[] = [];
      for (const { transport, host, port: remotePort } of target.addresses) {
        signal.throwIfAborted();
        try {
          return take(await connect(host, remotePort, transport === 'tls', signal));
        } catch (cause) {
          errors.push(`${host}:${remotePort} ${cause instanceof Error ? cause.message : String(cause)}`);
        }
      }
      throw new MeshError(
        'unreachable',
        `No TCP address answered: ${errors.join('; ')}.`,
        'Check the firewall, or let WebRTC or the relay take over.',
      );
    },
    listen: (listener) => {
      onPipe = listener;
    },
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))));
    },
  };
}

async function bind(server: net.Server, options: TcpOptions, wanted: number): Promise<number> {
  for (let port = wanted; ; port += 1) {
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen({ host: options.host, port, exclusive: true }, () => {
          server.off('error', reject);
          resolve();
        });
      });
      const address = server.address();
      const bound = typeof address === 'object' && address ? address.port : port;
      if (wanted !== 0 && bound !== wanted)
        options.emit({ kind: 'port.moved', wanted, port: bound, reason: `port ${wanted} is in use` });
      return bound;
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code;
      if (code === 'EADDRINUSE' && options.nextFree && port < Math.min(wanted + 200, 65_535)) continue;
      if (code === 'EADDRINUSE')
        throw new MeshError(
          'port-in-use',
          `Port ${port} on ${options.host} is in use.`,
          'Choose another with --port, or end the program that holds it.',
          { cause },
        );
      throw new MeshError(
        'unreachable',
        `Cannot listen on ${options.host}:${port}: ${String((cause as Error).message)}.`,
        'Choose an address of this machine.',
        { cause },
      );
    }
  }
}

function connect(host: string, port: number, secure: boolean, signal: AbortSignal): Promise<net.Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<net.Socket>();
  const socket = secure ? tls.connect({ host, port, rejectUnauthorized: false }) : net.connect({ host, port });
  const abort = (): void => {
    socket.destroy();
    reject(new MeshError('cancelled', 'The dial was given up.', 'Nothing to do.'));
  };
  signal.addEventListener('abort', abort, { once: true });
  socket.once(secure ? 'secureConnect' : 'connect', () => resolve(socket));
  socket.once('error', reject);
  return promise.finally(() => signal.removeEventListener('abort', abort));
}

function socketPipe(socket: net.Socket): Pipe {
  const inbox = new Inbox();
  const reader = new Reader();
  let failure = 'the connection closed';
  socket.setNoDelay(true);
  socket.on('data', (data) => {
    try {
      for (const message of reader.add(data))
        if (!inbox.push(message)) throw new Error('the other end does not listen');
    } catch (cause) {
      failure = (cause as Error).message;
      socket.destroy();
    }
  });
  socket.on('error', (error) => {
    failure = error.message;
  });
  socket.on('close', () => inbox.end(failure));
  return {
    transport: 'tcp',
    maxMessageBytes: MAX_MESSAGE_BYTES,
    binding:
      socket instanceof tls.TLSSocket
        ? socket.exportKeyingMaterial(32, 'EXPORTER-skein', Buffer.alloc(0)).toString('base64url')
        : '',
    send: (message) => {
      if (inbox.closedReason !== null || socket.destroyed)
        return Promise.reject(pipeClosed(inbox.closedReason ?? failure));
      const prefix = Buffer.allocUnsafe(PREFIX_BYTES);
      prefix.writeUInt32LE(message.byteLength);
      socket.cork();
      socket.write(prefix);
      const more = socket.write(message);
      process.nextTick(() => socket.uncork());
      return more ? Promise.resolve() : drained(socket, inbox);
    },
    listen: (listener) => inbox.listen(listener),
    close: (reason) => {
      inbox.end(reason);
      socket.end();
      setTimeout(() => socket.destroy(), 200).unref();
    },
  };
}

function drained(socket: net.Socket, inbox: Inbox): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const settle = (): void => {
    socket.off('drain', settle);
    socket.off('close', settle);
    if (socket.destroyed) reject(pipeClosed(inbox.closedReason ?? 'the connection closed'));
    else resolve();
  };
  socket.once('drain', settle);
  socket.once('close', settle);
  return promise;
}

/** Cuts the byte stream into messages; each gets memory of its own. */
class Reader {
  #prefix = Buffer.alloc(PREFIX_BYTES);
  #prefixFilled = 0;
  #message: Uint8Array<ArrayBuffer> | null = null;
  #filled = 0;

  *add(data: Buffer): Generator<Uint8Array<ArrayBuffer>> {
    let at = 0;
    while (at < data.length) {
      if (!this.#message) {
        const take = Math.min(PREFIX_BYTES - this.#prefixFilled, data.length - at);
        data.copy(this.#prefix, this.#prefixFilled, at, at + take);
        this.#prefixFilled += take;
        at += take;
        if (this.#prefixFilled < PREFIX_BYTES) return;
        const size = this.#prefix.readUInt32LE();
        if (size > MAX_MESSAGE_BYTES)
          throw new Error(`a message claims ${size} bytes; the limit is ${MAX_MESSAGE_BYTES}`);
        this.#message = new Uint8Array(size);
        this.#filled = 0;
      }
      const take = Math.min(this.#message.byteLength - this.#filled, data.length - at);
      this.#message.set(data.subarray(at, at + take), this.#filled);
      this.#filled += take;
      at += take;
      if (this.#filled < this.#message.byteLength) return;
      const whole = this.#message;
      this.#message = null;
      this.#prefixFilled = 0;
      yield whole;
    }
  }
}
