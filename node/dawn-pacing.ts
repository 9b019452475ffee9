// Workaround: Dawn's Node binding polls by re-arming globalThis.setImmediate on every turn of the event loop while any promise
// is pending, which burns a whole core; with a software GPU that core is half of the GPU.
// Upstream: dawn/node's AsyncRunner (https://dawn.googlesource.com/dawn, src/dawn/node/binding/AsyncRunner.cpp; npm webgpu 0.6.2).
// Measured on 2 busy cores with lavapipe: 512³ products run at 3.9 GF/s unpaced and 6.3 paced (medians); a training step of
// 784-64-10 at 32 rows takes 4.6 ms where waits are polled on a 1 ms timer and 3.1 ms with naps (medians).
// Can go when the binding waits for events instead of polling.
//
// A wait is polled without delay for SPIN_MS, with short naps of the thread up to NAP_UNTIL_MS, and on a timer after that: a
// timer's grain is 1 ms, which would be most of a short operation; a nap holds up messages by its length at most.

const SPIN_MS = 0.2;
const NAP_MS = 0.3;
const NAP_UNTIL_MS = 20;
const TIMER_MS = 1;

type Callback = (...args: unknown[]) => void;

/** Replaces this thread's globalThis.setImmediate; call it once, in the thread that runs Dawn. */
export function installDawnPacing(): void {
  const setImmediateNow = globalThis.setImmediate;
  const never = new Int32Array(new SharedArrayBuffer(4));
  let sinceMs = 0;
  let isPolling = false;

  const paced = (callback: Callback, ...args: unknown[]): unknown => {
    const nowMs = performance.now();
    // Armed from outside a poll: a wait begins, and with it a new spin.
    if (!isPolling) sinceMs = nowMs;
    const waitedMs = nowMs - sinceMs;
    const poll = (): void => {
      isPolling = true;
      try {
        callback(...args);
      } finally {
        isPolling = false;
      }
    };
    if (waitedMs >= NAP_UNTIL_MS) return setTimeout(poll, TIMER_MS);
    if (waitedMs >= SPIN_MS) Atomics.wait(never, 0, 0, NAP_MS);
    return setImmediateNow(poll);
  };
  globalThis.setImmediate = Object.assign(paced, setImmediateNow) as typeof setImmediate;
}
