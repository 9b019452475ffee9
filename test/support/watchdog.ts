// Loaded into every test process before its file: ends the process when the file has run too long. A thread of its own, because
// a loop that never yields, or a GPU wait, stops every timer of the main one, and with it node:test's own timeout.
import process from 'node:process';
import { isMainThread, Worker } from 'node:worker_threads';

const FILE_TIMEOUT_MS = Number(process.env.SKEIN_TEST_FILE_TIMEOUT_MS ?? 180_000);

const PROGRAM = `
const { writeSync } = require('node:fs');
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ${FILE_TIMEOUT_MS});
writeSync(2, ${JSON.stringify(`test file ended after ${FILE_TIMEOUT_MS / 1000} s: ${process.argv[1] ?? ''}\n`)});
process.kill(process.pid, 'SIGKILL');`;

// Threads and processes that a test starts inherit --import; the threads share the watchdog of their process.
if (isMainThread) new Worker(PROGRAM, { eval: true, execArgv: [] }).unref();
