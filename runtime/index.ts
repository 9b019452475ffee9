// The public door: what a program needs to take part in a mesh, from Node or from a page. Files inside never import it.
export { MeshError, toMeshError, exitCodeOf, type MeshErrorCode } from './errors.ts';
export { EventBus, type Emit, type EventOf, type MeshEvent, type MicrobatchKey, type TransportKind } from './events.ts';
export { f32Of, f32Tensor, i32Of, i32Tensor, type DType, type Tensor, type Tensors } from './tensor.ts';
export { decode as decodeSafetensors, encode as encodeSafetensors } from './safetensors.ts';
export type {
  Compute,
  ComputeStats,
  GpuDescription,
  ModelSpec,
  OptimizerSpec,
  StageInfo,
  StageSpec,
} from './compute.ts';
export type { ComputeWorker, Platform } from './platform.ts';
export { layerCount, splitLayers, stageInfo } from './model/spec.ts';
export { formatUid, parseUid, type PeerId, type RunId, type Uid } from './wire/ids.ts';
export type { MeshRecord, RunRecord, StageRecord } from './wire/records.ts';
export { joinMesh, type Peer, type PeerOptions } from './mesh/peer.ts';
export { formatJoinUrl, parseJoinUrl, type JoinTarget, type Monitor } from './mesh/monitor-client.ts';
export { LocalHub } from './mesh/local.ts';
export type { Target, Transport } from './mesh/transport.ts';
export { StageHost, type StageHostOptions } from './server/host.ts';
export { runClient, type ClientOptions, type RunData } from './train/client.ts';
export { parseRunConfig, planStages, stageNames, type RunConfig } from './train/config.ts';
export { batch, datasetFromIdx, epochOrder, type Dataset } from './train/data.ts';
export { parseIdx } from './train/idx.ts';
