// The monitor as a program. It listens on this machine only unless it is told otherwise.
import { z } from 'zod';
import { command, option, runCommand, spelled } from '../node/command.ts';
import { findDataFile } from '../node/data-files.ts';
import { formatJoinUrl, parseJoinUrl } from '../runtime/mesh/join-url.ts';
import type { IceServer } from './peers.ts';
import { createMonitor, DEFAULT_PORT, isLoopback, type MonitorServer } from './server.ts';
import { machineAddresses } from './state.ts';

const portSchema = z.coerce
  .number()
  .refine((port) => Number.isInteger(port) && port >= 0 && port <= 65_535, 'a port is a whole number up to 65535');

const schema = z.strictObject({
  host: z.string().min(1).default('127.0.0.1'),
  port: portSchema.optional(),
  token: z.string().optional(),
  state: z.string().min(1).optional(),
  publicHost: z
    .string()
    .regex(/^[A-Za-z0-9.-]{1,253}$/, 'a host name without scheme and port')
    .optional(),
  ice: z
    .union([z.string(), z.array(z.string())])
    .default([])
    .transform((given) => [given].flat().flatMap((text) => text.split(/\s+/)))
    .pipe(
      z.array(
        z
          .string()
          .regex(/^(stuns?|turns?):[^,]+(,[^,]*,[^,]*)?$/, 'write stun:HOST:PORT or turn:HOST:PORT,USER,PASSWORD'),
      ),
    ),
});
type Options = z.infer<typeof schema>;

export const monitor = command({
  name: 'monitor',
  description: 'The monitor: where peers of a mesh find each other, and its web page.',
  options: [
    option('--host <address>', 'address to listen on; 0.0.0.0 for every machine, over HTTPS (default: 127.0.0.1)'),
    option('--port <number>', `port (default: ${DEFAULT_PORT}, or the next free one)`),
    option('--token <text>', 'join token (default: the one kept in the state directory)'),
    option('--state <directory>', 'where token and certificate are kept (default: ~/.local/state/skein)'),
    option('--public-host <name>', 'the name under which others reach this machine'),
    option('--ice <url...>', 'ICE servers for WebRTC: stun:HOST:PORT, or turn:HOST:PORT,USER,PASSWORD (default: none)'),
  ],
  schema,
  examples: [
    'node signaling/main.ts',
    'node signaling/main.ts --host 0.0.0.0 --public-host mesh.example.org',
    'SKEIN_PORT=6000 node signaling/main.ts --json',
  ],
  run: async (options, { emit, say, signal }) => {
    const server = await createMonitor({
      host: options.host,
      port: options.port ?? DEFAULT_PORT,
      mayMovePort: options.port === undefined,
      ...(options.token === undefined ? {} : { token: options.token }),
      ...(options.state === undefined ? {} : { stateDir: options.state }),
      ...(options.publicHost === undefined ? {} : { publicHost: options.publicHost }),
      iceServers: options.ice.map(parseIceServer),
      findDataFile,
      emit,
    });
    explain(options, server, say);
    await aborted(signal);
    await server.close();
    return 0; // Ctrl-C is how a monitor ends
  },
});

function explain(options: Options, server: MonitorServer, say: (line: string) => void): void {
  say('');
  if (!isLoopback(options.host))
    say(
      'HTTPS with its own certificate, since a page on plain HTTP from another machine has no WebGPU. A browser asks once\nwhether to go on; programs check the fingerprint in the link.\n',
    );
  say(`Join link      ${server.joinUrl}`);
  for (const link of otherLinks(options, server)) say(`               ${link}`);
  say(`Headless box   ${spelled('serve')} --join '${server.joinUrl}' --stage front.0.0.0`);
  say('');
  say('Whoever has the link can join. Ctrl-C ends the monitor; peers come back by themselves when it starts again.');
}

/** The machine's other addresses, where it listens on all of them. */
function otherLinks({ host }: Options, { joinUrl, port }: MonitorServer): string[] {
  if (host !== '0.0.0.0' && host !== '::') return [];
  const target = parseJoinUrl(joinUrl);
  return machineAddresses()
    .filter((address) => host === '::' || !address.includes(':'))
    .map((address) =>
      formatJoinUrl({ ...target, url: `https://${address.includes(':') ? `[${address}]` : address}:${port}` }),
    )
    .filter((link) => link !== joinUrl);
}

function parseIceServer(text: string): IceServer {
  const [urls = '', username, credential] = text.split(',');
  return {
    urls,
    ...(username === undefined ? {} : { username }),
    ...(credential === undefined ? {} : { credential }),
  };
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

if (import.meta.main) await runCommand(monitor);
