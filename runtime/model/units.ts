// The units that replicas exchange: a layer's weight and bias together, a large layer cut into chunks of whole rows. Pure: every replica
// of a stage cuts alike, from the names and shapes of its parameters and one size.
import type { ParameterInfo } from '../compute.ts';
import { MeshError } from '../errors.ts';

/** Consecutive elements of one parameter. */
export interface UnitRange {
  name: string;
  start: number;
  count: number;
}

export interface Unit {
  /** `<layer>`, or `<layer>#<chunk>` of one that was cut. */
  name: string;
  /** In the order in which they travel. */
  ranges: UnitRange[];
  /** Elements in all. */
  count: number;
}

const MIB = 2 ** 20;
const LEAST_BYTES = 4096;
/** Units that a model should have at least: with fewer, a plan has nothing to share out among peers. */
const UNITS = 16;
const MOST_UNITS = 65_536;

/** Of each unit at most: a 16th of the model, and 1 MiB; but no less than 4 KiB. */
export const defaultUnitBytes = (parameterBytes: number): number =>
  Math.max(LEAST_BYTES, Math.min(MIB, Math.ceil(parameterBytes / UNITS)));

/**
 * Cuts parameters into units of at most `unitBytes` (f32), or of one row where a row is larger. Parameters of a layer that have equally
 * many rows are cut together. Throws `usage` for a size that would make too many units.
 */
export function unitsOf(parameters: readonly ParameterInfo[], unitBytes: number): Unit[] {
  const units: Unit[] = [];
  for (const [layer, members] of layersOf(parameters)) {
    const groups = Map.groupBy(members, ({ shape }) => shape[0] ?? 1);
    const chunks = [...groups].flatMap(([rows, alike]) => chunksOf(rows, alike, unitBytes));
    chunks.forEach((ranges, i) => {
      const name = chunks.length === 1 ? layer : `${layer}#${i}`;
      units.push({ name, ranges, count: ranges.reduce((sum, { count }) => sum + count, 0) });
    });
    if (units.length > MOST_UNITS)
      throw new MeshError(
        'usage',
        `Units of ${unitBytes} bytes would be more than ${MOST_UNITS} for this model.`,
        'Raise average.unitBytes, or leave it out.',
      );
  }
  return units;
}

/** By the name without its last part: `layers.0.weight` and `layers.0.bias` are one layer. */
function layersOf(parameters: readonly ParameterInfo[]): Map<string, ParameterInfo[]> {
  return Map.groupBy(parameters, ({ name }) => name.slice(0, Math.max(0, name.lastIndexOf('.'))) || name);
}

/** As few chunks as the size allows, but for the last of equally many rows. */
function chunksOf(rows: number, alike: readonly ParameterInfo[], unitBytes: number): UnitRange[][] {
  const widths = alike.map(({ shape }) => shape.slice(1).reduce((product, size) => product * size, 1));
  const rowBytes = widths.reduce((sum, width) => sum + width * 4, 0);
  const most = Math.max(1, Math.floor(unitBytes / rowBytes));
  const chunks = Math.ceil(rows / most);
  // Cuts lie at fours of rows where that leaves no chunk too large: kernels are faster there.
  const even = Math.ceil(rows / chunks);
  const step = even % 4 === 0 || Math.ceil(even / 4) * 4 > most ? even : Math.ceil(even / 4) * 4;
  return Array.from({ length: Math.ceil(rows / step) }, (_, i) => {
    const first = i * step;
    const end = Math.min(rows, first + step);
    return alike.map(({ name }, p) => {
      const width = widths[p] ?? 1;
      return { name, start: first * width, count: (end - first) * width };
    });
  });
}

/** The same for equal units only: two replicas whose digests differ cannot exchange anything. FNV-1a, 32 bits. */
export function unitsDigest(units: readonly Unit[]): string {
  let hash = 0x811c9dc5;
  for (const character of JSON.stringify(units)) {
    hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, '0');
}
