// Sizes as people write them: 512MB, 1.5 GiB, 2g. Decimal and binary units both, as they are named.
import { MeshError } from '../runtime/errors.ts';

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
};

/** Throws `usage` for what is no size. */
export function parseBytes(text: string): number {
  const [, digits = '', unit = 'b'] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]+)?\s*$/i.exec(text) ?? [];
  const factor = UNITS[unit.toLowerCase()];
  if (digits === '' || factor === undefined)
    throw new MeshError('usage', `"${text}" is no amount of memory.`, 'Write it as 512MB or 2GiB.');
  return Math.floor(Number(digits) * factor);
}
