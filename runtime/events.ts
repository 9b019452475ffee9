// Everything that happens is one of these. Logs, the live terminal, the dashboard, the run's event log and the tests read the
// same stream. An event is plain JSON; times are milliseconds since the epoch.

export type TransportKind = 'local' | 'tcp' | 'webrtc' | 'relay';

/** Which microbatch: at most one gradient contribution per stage carries the same key. */
export interface MicrobatchKey {
  run: string;
  trainer: string;
  step: number;
  microbatch: number;
}

export type MeshEvent =
  // life of processes
  | { kind: 'monitor.ready'; url: string; joinUrl: string; host: string; port: number }
  | { kind: 'monitor.lost'; reason: string }
  | { kind: 'monitor.joined'; url: string; peer: string }
  | { kind: 'peer.joined'; peer: string; role: string }
  | { kind: 'peer.left'; peer: string; reason: string }
  | { kind: 'gpu.found'; device: string; isSoftware: boolean }
  | { kind: 'port.moved'; wanted: number; port: number; reason: string }
  // directory
  | { kind: 'record.added'; name: string; peer: string }
  | { kind: 'record.removed'; name: string; peer: string; reason: string }
  | { kind: 'record.rejected'; name: string; reason: string }
  // links
  | { kind: 'link.up'; peer: string; transport: TransportKind; reason: string; rttMs: number; bytesPerSecond: number }
  | { kind: 'link.down'; peer: string; transport: TransportKind; reason: string }
  | { kind: 'link.moved'; peer: string; from: TransportKind; to: TransportKind; reason: string }
  | { kind: 'frame.rejected'; peer: string; reason: string }
  // stages
  | { kind: 'stage.ready'; uid: string; port: number | null }
  | { kind: 'stage.opened'; uid: string; run: string; layers: [number, number]; parameterBytes: number }
  | { kind: 'stage.stepped'; uid: string; run: string; step: number; contributions: number; gradientNorm: number }
  | { kind: 'stage.rejected'; uid: string; reason: string }
  | { kind: 'stage.adopted'; uid: string; run: string; step: number; from: string }
  | { kind: 'stage.closed'; uid: string; run: string }
  | {
      kind: 'stage.stats';
      uid: string;
      samplesPerSecond: number;
      samples: number;
      loss: number | null;
      /** Share of the last second in which the compute worker had nothing to do for this stage. */
      idleShare?: number;
      bytesIn: number;
      bytesOut: number;
    }
  | { kind: 'hop.replaced'; uid: string; by: string; key: MicrobatchKey; reason: string }
  // runs
  | { kind: 'run.waiting'; run: string; missing: string[] }
  | {
      kind: 'run.started';
      run: string;
      mode: 'sync' | 'async';
      policy: string;
      stages: string[];
      plannedMicrobatches: number;
      plannedSteps: number;
      /** Steps that were taken before, where the run goes on from a checkpoint. */
      resumedAt?: number;
    }
  | { kind: 'trainer.started'; run: string; trainer: string; path: string[] }
  | { kind: 'trainer.stopped'; run: string; trainer: string; reason: string }
  | { kind: 'microbatch.done'; key: MicrobatchKey; attempt: number; path: string[]; loss: number; rows: number }
  | { kind: 'step.retried'; run: string; step: number; attempt: number; reason: string }
  /** A step was committed: for each stage, which microbatches its applied gradient holds (each planned one exactly once). */
  | {
      kind: 'step.applied';
      run: string;
      step: number;
      loss: number;
      stages: Record<string, number[]>;
      lr?: number;
      gradientNorm?: number;
    }
  | { kind: 'stages.averaged'; run: string; stage: string; replicas: string[] }
  /** A replica merged layers of others into its own, in one round or exchange. */
  | {
      kind: 'layers.merged';
      uid: string;
      run: string;
      round: number;
      peers: string[];
      units: number;
      /** Received for it. */
      bytes: number;
      ms: number;
    }
  /** A replica saw another do what no honest one does; after three times it leaves it out for a while. */
  | { kind: 'peer.struck'; uid: string; peer: string; offence: string; detail: string; strikes: number }
  | { kind: 'peer.banned'; uid: string; peer: string; offence: string; reason: string; round: number; seconds: number }
  | {
      kind: 'run.progress';
      run: string;
      epoch: number;
      epochs: number;
      step: number;
      steps: number;
      loss: number;
      samplesPerSecond: number;
      /** Of a language model. */
      tokensPerSecond?: number;
      /** GPU memory that the peers of the run have in use together, as far as they tell. */
      memoryBytes?: number;
      peers: number;
      trainers: number;
      etaSeconds: number;
    }
  | {
      kind: 'run.evaluated';
      run: string;
      epoch: number;
      /** Steps taken. */
      step: number;
      accuracy: number;
      perClassAccuracy: number[];
      samples: number;
      /** Of a language model: mean loss of a held-out token in nats, and its exponential. */
      heldOutLoss?: number;
      perplexity?: number;
    }
  | { kind: 'checkpoint.saved'; step: number; path: string }
  | { kind: 'text.sampled'; prompt: string; text: string; temperature: number; seed: number }
  | { kind: 'model.saved'; path: string; format: 'safetensors' | 'huggingface' }
  | {
      kind: 'run.done';
      run: string;
      accuracy: number;
      perClassAccuracy: number[];
      heldOutLoss?: number;
      perplexity?: number;
      /** Of an example: what the same training reaches in PyTorch. */
      referenceLoss?: number;
      samplesPerSecond: number;
      tokensPerSecond?: number;
      peers: number;
      trainers: number;
      plannedMicrobatches: number;
      appliedMicrobatches: number;
      seconds: number;
      model: string;
      /** Of a federated example: each worker by itself, and the same workers trained alone. */
      workers?: { id: string; accuracy: number; perClassAccuracy: number[] }[];
      alone?: { id: string; accuracy: number; perClassAccuracy: number[] }[];
    }
  | { kind: 'run.failed'; run: string; code: string; message: string; fix: string }
  /** `skein step`: one training step was written to a file. */
  | { kind: 'step.done'; loss: number; gradientNorm: number; rows: number; stages: number; out: string }
  /** `skein simulate`: one of its runs is over. */
  | {
      kind: 'simulate.progress';
      system: string;
      network: string;
      seed: number;
      done: number;
      runs: number;
      /** At the end of the run, in the mean of the workers. */
      accuracy: number;
      target: number;
      /** Virtual; null: not within the run. */
      targetSeconds: number | null;
    }
  /** All of them; virtual seconds except `seconds`. */
  | {
      kind: 'simulate.done';
      runs: number;
      seconds: number;
      /** What the others are compared with. */
      reference: string;
      comparisons: {
        system: string;
        network: string;
        target: number;
        targetSeconds: number | null;
        /** Times what the reference needs; where the target was not reached, at least so many. */
        timesAsLong: number | null;
        atLeastTimesAsLong: number | null;
        timesTheBytes: number | null;
        accuracy: number;
        worstAccuracy: number;
      }[];
      /** Where the reference does not win. */
      losses: { network: string; text: string }[];
      findings: { claim: string; holds: boolean; evidence: string }[];
      out: string | null;
    }
  | { kind: 'process.started'; what: string; pid: number }
  // federated workers
  | { kind: 'worker.ready'; uid: string; run: string; rows: number; labels: number[]; neighbours: string[] }
  | { kind: 'worker.waiting'; uid: string; run: string; missing: string[] }
  /** A worker that joined late took over the weights of another. */
  | { kind: 'worker.adopted'; uid: string; run: string; from: string; steps: number }
  | {
      kind: 'worker.progress';
      uid: string;
      run: string;
      step: number;
      steps: number;
      loss: number;
      samplesPerSecond: number;
      /** Merged rounds or exchanges, and what was received for them. */
      rounds: number;
      bytes: number;
      etaSeconds: number;
    }
  | {
      kind: 'worker.evaluated';
      uid: string;
      run: string;
      step: number;
      accuracy: number;
      perClassAccuracy: number[];
      samples: number;
      heldOutLoss?: number;
      perplexity?: number;
    }
  | {
      kind: 'worker.done';
      uid: string;
      run: string;
      worker: number;
      accuracy: number;
      perClassAccuracy: number[];
      heldOutLoss?: number;
      perplexity?: number;
      steps: number;
      rounds: number;
      /** Received for averaging, and all that went over its links. */
      bytes: number;
      bytesIn: number;
      bytesOut: number;
      samplesPerSecond: number;
      seconds: number;
      model: string;
    }
  | { kind: 'log'; level: 'info' | 'warn'; message: string };

export type EventOf<K extends MeshEvent['kind']> = Extract<MeshEvent, { kind: K }>;

export type Emit = (event: MeshEvent) => void;

/** A stream of events with any number of listeners; a listener that throws does not stop the others. */
export class EventBus {
  readonly #listeners = new Set<Emit>();

  readonly emit: Emit = (event) => {
    for (const listener of this.#listeners) {
      try {
        listener(event);
      } catch (cause) {
        queueMicrotask(() => {
          throw cause;
        });
      }
    }
  };

  on(listener: Emit): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
