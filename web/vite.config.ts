// Builds the page into dist/web, which the monitor serves. Nothing is inlined and nothing comes from elsewhere: the page's policy
// allows scripts, workers and styles of its own origin only.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vite';

export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  base: './',
  // simple-peer's own entry expects Node's globals; this file of the same package has them inside.
  resolve: { alias: { 'simple-peer': 'simple-peer/simplepeer.min.js' } },
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  worker: { format: 'es' },
  build: {
    outDir: fileURLToPath(new URL('../dist/web', import.meta.url)),
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    chunkSizeWarningLimit: 1_000,
  },
});
