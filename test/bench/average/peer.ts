// A replica that does not train and only serves its layers, in a process of its own: whom the averager of the benchmark pulls from.
//   node test/bench/average/peer.ts JOIN_URL REQUEST UID   (REQUEST: the body of stage.open, as JSON, without its UID)
import { joinFromNode } from '../../../node/peer.ts';
import { platform } from '../../../node/platform.ts';
import { StageHost } from '../../../runtime/server/host.ts';
import type { Request } from '../../../runtime/wire/messages.ts';
import { parseUid } from '../../../runtime/wire/ids.ts';

const [join = '', request = '{}', uid = ''] = process.argv.slice(2);
const body = JSON.parse(request) as Omit<Request<'stage.open'>, 'uid'>;
const { signal } = new AbortController();
const emit = (): void => {};
const worker = await platform.startCompute();
const gpu = await worker.compute.describe();
const peer = await joinFromNode({
  join,
  role: 'server',
  host: '127.0.0.1',
  port: 0,
  tls: 'off',
  emit,
  signal,
  allow: ['tcp'],
});
const host = new StageHost({
  ...{ self: peer.id, host: 'node' as const, compute: worker.compute, gpu, ask: peer.ask, emit },
  isConnected: (id) => peer.isConnected(id),
  addresses: () => peer.addresses(),
  traffic: () => peer.links.traffic(),
});
peer.serve(host.handlers);
const parts = parseUid(uid);
// Weights of its own: the same for all would be nothing to merge.
await host.add(parts.uid).open({ ...body, spec: { ...body.spec, seed: 100 + parts.expertIndex } }, peer.id);
if (peer.monitor) await host.announce(peer.monitor);
process.send?.('ready');
process.on('SIGTERM', () => process.exit());
process.on('disconnect', () => process.exit());
