// The other process of the link benchmark: a monitor (`monitor`), or a peer that echoes over one transport (JOIN-URL KIND).
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { joinFromNode } from '../../node/peer.ts';
import type { TransportKind } from '../../runtime/events.ts';
import type { Handlers } from '../../runtime/wire/channel.ts';
import { createMonitor } from '../../signaling/server.ts';

/** Answers with the tensors it got. */
export const echo: Handlers = { 'stage.infer': (_body, tensors) => Promise.resolve({ body: {}, tensors }) };

async function main(what: string, kind: TransportKind): Promise<void> {
  process.once('disconnect', () => process.exit(0)); // the benchmark ended, one way or another
  if (what === 'monitor') {
    const stateDir = mkdtempSync(join(tmpdir(), 'skein-bench-'));
    process.once('exit', () => rmSync(stateDir, { recursive: true, force: true }));
    const { joinUrl } = await createMonitor({ port: 0, stateDir });
    process.send?.({ joinUrl });
    return;
  }
  const peer = await joinFromNode({
    join: what,
    role: 'server',
    host: '127.0.0.1',
    port: 0,
    emit: () => undefined,
    signal: new AbortController().signal,
    allow: [kind],
  });
  peer.serve(echo);
  process.send?.({ peer: peer.id, addresses: peer.addresses() });
}

if (import.meta.main) await main(process.argv[2] ?? '', process.argv[3] as TransportKind);
