// The layers: imports point downwards only, type imports included. `npm run check` holds them; CONTRIBUTING.md draws them.
const COMPUTE_WING = '^runtime/(gpu/|model/|worker\\.ts$|compute-engine\\.ts$)';
const NETWORK_WING = '^runtime/(wire|mesh)/';
const ROOMS = '^runtime/(server|train|average|infer|jobs|simulate)/';
/** Of runtime/model, what the main thread may load. */
const PURE_MODEL = '^runtime/model/(spec|units|mlp-spec|cnn-spec|language-spec|huggingface|rope|random)\\.ts$';
const SEAM = '^(node|web)/platform\\.ts$';
/** Packages that need a process or a page of their own kind. */
const HOST_PACKAGES = '^node_modules/(webgpu|@roamhq|wrtc|socket\\.io|selfsigned|commander|vite|preact|@preact|uplot)/';

const forbidden = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });

module.exports = {
  forbidden: [
    // The way back through #platform does not count: it is the one place where the runtime is given its host.
    forbidden('no-cycles', 'Imports must not form a circle.', {}, { circular: true, viaOnly: { pathNot: SEAM } }),
    forbidden('resolvable', 'An import must lead to a file.', {}, { couldNotResolve: true }),
    forbidden('kernels-stand-alone', 'kernels/ imports nothing.', { path: '^kernels/' }, { path: '.' }),
    forbidden(
      'wings-1',
      'Computing knows nothing of the network.',
      { path: COMPUTE_WING },
      { path: `${NETWORK_WING}|${ROOMS}` },
    ),
    forbidden(
      'wings-2',
      'The network knows nothing of computing.',
      { path: NETWORK_WING },
      { path: `${COMPUTE_WING}|${ROOMS}` },
    ),
    forbidden(
      'gpu-below-model',
      'runtime/gpu knows no models.',
      { path: '^runtime/gpu/' },
      { path: '^runtime/model/' },
    ),
    forbidden(
      'wire-below-mesh',
      'runtime/wire knows no peers.',
      { path: '^runtime/wire/' },
      { path: '^runtime/mesh/' },
    ),
    forbidden(
      'rooms-off-the-gpu',
      'The rooms above the wings run on the main thread: the GPU is reached through runtime/compute.ts.',
      { path: ROOMS },
      { path: '^runtime/(gpu/|worker\\.ts$|compute-engine\\.ts$)' },
    ),
    forbidden(
      'rooms-take-pure-parts',
      'Of the models, the rooms use only what knows no GPU.',
      { path: ROOMS },
      { path: '^runtime/model/', pathNot: PURE_MODEL },
    ),
    forbidden(
      'pure-parts-off-the-gpu',
      'What the rooms take from runtime/model must not lead to the GPU.',
      { path: PURE_MODEL },
      { path: '^runtime/gpu/', reachable: true },
    ),
    forbidden(
      'text-stands-alone',
      'Tokenizers and text data stand on the files that everything imports.',
      { path: '^runtime/text/' },
      { path: '^runtime/(?!text/)[^/]+/' },
    ),
    forbidden(
      'root-files-below-all',
      'The files that everything imports import only one another.',
      {
        path: '^runtime/(tensor|safetensors|errors|events|platform|model-spec|compute|layer-store|average-spec|transfer|waiters|widen)\\.ts$',
      },
      { path: '^runtime/[^/]+/' },
    ),
    forbidden('door', 'runtime/index.ts is for the outside.', { path: '^runtime/' }, { path: '^runtime/index\\.ts$' }),
    forbidden(
      'runtime-without-node',
      'The runtime knows no host.',
      { path: '^runtime/' },
      { dependencyTypes: ['core'] },
    ),
    forbidden(
      'runtime-without-host-packages',
      'The runtime knows no host.',
      { path: '^runtime/' },
      { path: HOST_PACKAGES },
    ),
    forbidden(
      'runtime-below-all',
      'The runtime reaches its host through #platform and nothing else.',
      { path: '^runtime/' },
      { path: '^(node|web|signaling|test)/', dependencyTypesNot: ['aliased-subpath-import'] },
    ),
    forbidden(
      'signaling',
      'The monitor stands on the runtime, the common command line, and where this machine has data sets, which it serves.',
      { path: '^signaling/' },
      { path: '^(node/(?!(command|data-files)\\.ts$)|web/|test/)' },
    ),
    forbidden(
      'web',
      'The page stands on the runtime.',
      { path: '^web/' },
      { path: '^(node|signaling|test)/', dependencyTypesNot: ['aliased-subpath-import'] },
    ),
    forbidden('node', 'node/ stands on the runtime and the monitor.', { path: '^node/' }, { path: '^(web|test)/' }),
  ],
  options: {
    parser: 'swc', // TypeScript 7 has no API that dependency-cruiser can read
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.tsx', '.mjs', '.js', '.d.ts'],
    },
  },
};
