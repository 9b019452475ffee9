// Which GPU this browser offers, for a person to see before lending it. Computing itself asks again, in its worker.
import { platform } from '#platform';
import type { Gpu } from './state.ts';

const LOOK_MS = 15_000;

export async function findGpu(): Promise<Gpu> {
  const { promise: late, resolve } = Promise.withResolvers<Gpu>();
  const why = `The browser did not answer for ${LOOK_MS / 1_000} s when it was asked for a GPU. Reload the page; if it stays so, restart the browser.`;
  const timer = setTimeout(() => resolve({ kind: 'none', why }), LOOK_MS);
  try {
    return await Promise.race([look(), late]);
  } catch (cause) {
    return { kind: 'none', why: `The browser refused: ${String(cause)}. Reload the page, or try another browser.` };
  } finally {
    clearTimeout(timer);
  }
}

async function look(): Promise<Gpu> {
  const gpu = await platform.gpu();
  const adapter = await gpu?.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) return { kind: 'none', why: platform.gpuMissing() };
  const { vendor, architecture, description, device, isFallbackAdapter } = adapter.info;
  const names = [vendor, architecture, device, description].join(' ');
  return {
    kind: 'found',
    name: description || `${vendor} ${architecture}`.trim() || 'a GPU that does not tell its name',
    isSoftware: isFallbackAdapter || /llvmpipe|lavapipe|swiftshader/i.test(names),
  };
}
