// The compute worker of a page: runtime/worker.ts in a Web Worker.
import { serveCompute } from '../runtime/worker.ts';
import { computePlatform } from './compute-platform.ts';

serveCompute(undefined, computePlatform);
