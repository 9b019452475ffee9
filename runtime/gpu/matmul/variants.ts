// Kernels of F0, F1 and F4 that hold every piece of text that any of them can: what the check on the null backend compiles.
import type { FusedActivation, MatmulVariant, Product, Tiling } from './spec.ts';

const FLAGS = [false, true] as const;
const ACTIVATIONS: readonly (FusedActivation | null)[] = [null, 'relu', 'gelu', 'gelu_new'];
const TILINGS: readonly Tiling[] = [
  { family: 'f0', subgroup: 4, rows: 16, columns: 4 },
  { family: 'f0', subgroup: 4, rows: 32, columns: 8 },
  { family: 'f0', subgroup: 8, rows: 32, columns: 4 },
  { family: 'f1', rows: 8, columns: 4 },
  { family: 'f4', subgroup: 0, columns: 4 },
  { family: 'f4', subgroup: 0, columns: 8 },
  { family: 'f4', subgroup: 8, columns: 4 },
  { family: 'f4', subgroup: 8, columns: 8 },
  { family: 'f4', subgroup: 32, columns: 4 },
];

export function everyMatmul(): { variant: MatmulVariant; tiling: Tiling }[] {
  return TILINGS.flatMap((tiling) => {
    // The way to memory is the same text for every product and tiling of a family, so one has it in all its forms.
    const isFirst = TILINGS.find(({ family }) => family === tiling.family) === tiling;
    const products = tiling.family === 'f4' ? (['nt'] as const) : (['nt', 'nn', 'tn'] as const);
    return products
      .flatMap((product) => [...loads(product), ...(isFirst && product === 'nt' ? epilogues() : [])])
      .map((variant) => ({ variant, tiling }));
  });
}

const plain = { weights: 'f32', bias: false, activation: null, residual: false, accumulate: false } as const;

const loads = (product: Product): MatmulVariant[] =>
  (['f32', 'bf16', 'f16'] as const).flatMap((weights) =>
    FLAGS.flatMap((a) =>
      FLAGS.map((b) => ({ ...plain, product, weights, accumulate: product === 'tn', alignment: { a, b, out: b } })),
    ),
  );

const epilogues = (): MatmulVariant[] =>
  ACTIVATIONS.flatMap((activation) =>
    FLAGS.flatMap((bias) =>
      FLAGS.flatMap((residual) =>
        FLAGS.flatMap((accumulate) =>
          FLAGS.map((out) => ({
            ...plain,
            product: 'nt' as const,
            bias,
            activation,
            residual,
            accumulate,
            alignment: { a: true, b: false, out },
          })),
        ),
      ),
    ),
  );
