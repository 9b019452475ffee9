// The compute worker of a page: runtime/worker.ts in a Web Worker.
import { serveCompute } from '../runtime/worker.ts';

serveCompute();
