// Workaround: Dawn's Node binding polls by re-arming globalThis.setImmediate on every turn of the event loop while any promise
// is pending, which burns a whole core; with a software GPU that core is half of the GPU.
// Upstream: dawn/node's AsyncRunner (https://dawn.googlesource.com/dawn, src/dawn/node/binding/AsyncRunner.cpp; npm webgpu 0.6.2).
// Measured on 2 cores with lavapipe: a 512³ product takes 9.5 ms unpaced and 5.1 ms paced.
// Can go when the binding waits for events instead of polling.
//
// Short work is polled without delay for the first 0.7 ms of a wait, longer work on a 1 ms timer after that.

const SPIN_MS = 0.7;
const POLL_MS = 1;

type Callback = (...args: unknown[]) => void;

/** Replaces this thread's globalThis.setImmediate; call it once, in the thread that runs Dawn. */
export function installDawnPacing(): void {
  const setImmediateNow = globalThis.setImmediate;
  let spinUntilMs = 0;
  let isPolling = false;

  const paced = (callback: Callback, ...args: unknown[]): unknown => {
    const nowMs = performance.now();
    // Armed from outside a poll: a wait begins, and with it a new spin.
    if (!isPolling) spinUntilMs = nowMs + SPIN_MS;
    const poll = (): void => {
      isPolling = true;
      try {
        callback(...args);
      } finally {
        isPolling = false;
      }
    };
    return nowMs < spinUntilMs ? setImmediateNow(poll) : setTimeout(poll, POLL_MS);
  };
  globalThis.setImmediate = Object.assign(paced, setImmediateNow) as typeof setImmediate;
}
