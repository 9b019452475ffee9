import { joinMesh } from '../runtime/mesh/peer.ts';
import { StageHost } from '../runtime/server/host.ts';
import { platform } from '#platform';
console.log(joinMesh, StageHost, platform);
