// The transports that a monitor introduces: WebRTC and the relay. The same suite as for the others.
import { after } from 'node:test';
import { pairMakers, testMonitor } from './pipes.ts';
import { transportSuite } from './suite.ts';

const server = await testMonitor();
after(() => server.close());
for (const maker of await pairMakers(server)) if (maker.isIntroduced) transportSuite(maker);
