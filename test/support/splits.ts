/** All ways to cut `total` layers into stages: 4, 1+3, 2+2, 3+1, 1+1+2 and so on. */
export function splits(total: number): number[][] {
  if (total === 0) return [[]];
  return Array.from({ length: total }, (_, i) => i + 1).flatMap((first) =>
    splits(total - first).map((rest) => [first, ...rest]),
  );
}
