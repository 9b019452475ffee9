// A mesh of real processes for tests: a monitor of its own with fresh state, servers, a client with a small run.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startNode, type Running } from './processes.ts';

/** Ends what was begun: a test, or a benchmark that keeps its own list. */
export interface Scope {
  after(work: () => Promise<unknown>): void;
}

export interface TestMesh {
  readonly joinUrl: string;
  readonly port: number;
  readonly monitor: Running;
  /** Scratch space that goes with the test. */
  readonly directory: string;
  /** A server; `stage.ready` tells when it is up. */
  serve(stages: readonly string[], ...more: string[]): Running;
  /** The same, once it is up. */
  serveReady(stages: readonly string[], ...more: string[]): Promise<Running>;
  /** A client with the given run configuration (JSON is YAML). */
  train(config: object, ...more: string[]): Promise<Running>;
}

export const TOKEN = 'test-token-0123456789';

export async function startMesh(t: Scope, ...monitorArguments: string[]): Promise<TestMesh> {
  const directory = await mkdtemp(join(tmpdir(), 'skein-e2e-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const keep = (running: Running): Running => {
    t.after(() => running.kill());
    return running;
  };
  const state = join(directory, 'state');
  const monitor = keep(
    startNode('signaling/main.ts', ['--port', '0', '--state', state, '--token', TOKEN, ...monitorArguments]),
  );
  const { joinUrl, port } = await monitor.event('monitor.ready');
  let runs = 0;
  // One thread each for a software driver: a mesh has more processes than this machine has cores.
  const serve = (stages: readonly string[], ...more: string[]): Running =>
    keep(
      startNode(
        'node/serve.ts',
        ['--join', joinUrl, '--port', '0', ...stages.flatMap((uid) => ['--stage', uid]), ...more],
        { env: { LP_NUM_THREADS: '1' } },
      ),
    );
  return {
    joinUrl,
    port,
    monitor,
    directory,
    serve,
    serveReady: async (stages, ...more) => {
      const server = serve(stages, ...more);
      await server.event('stage.ready');
      return server;
    },
    train: async (config, ...more) => {
      const name = join(directory, `run-${(runs += 1)}`);
      await writeFile(`${name}.yaml`, JSON.stringify(config));
      const files = ['--config', `${name}.yaml`, '--out', `${name}.safetensors`];
      return keep(startNode('node/train.ts', ['--join', joinUrl, '--port', '0', ...files, ...more]));
    },
  };
}

/** Small and quick: MNIST, 60 steps of 64 rows. */
export const SMALL_RUN = {
  data: 'mnist',
  batch: 64,
  microbatch: 32,
  epochs: 1,
  maxSteps: 60,
  mode: 'sync',
  policy: 'all',
  patienceMs: 40_000,
};
