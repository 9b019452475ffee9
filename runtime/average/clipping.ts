// How far a peer's unit may lie from one's own before it is drawn in: self-centred clipping (ClippedGossip, He et al. 2022; CenteredClip,
// Karimireddy et al. 2021) with a radius that follows what was accepted, because a fixed one is either no defence or ruins training.

/** Accepted distances that the median is taken of. */
const REMEMBERED = 32;
/** Before so many were accepted the median says little, and the unit's own size bounds what it may be moved by. */
const WARM_UP = 10;
/** f32's smallest normal number: a factor below it is rounded by up to its half, or flushed to nothing, as the device likes. */
const SMALLEST_FACTOR = 2 ** -126;
/** Of a unit's own size: closer than that is rounding. A unit that nobody trained for a while must not be held where it is for ever. */
const ROUNDING = 1e-3;

export interface ClippingOptions {
  /** The radius is this many times the median of the accepted distances. */
  factor: number;
}

export class Clipping {
  readonly #factor: number;
  readonly #accepted: number[][];

  constructor(units: number, { factor }: ClippingOptions) {
    this.#factor = factor;
    this.#accepted = Array.from({ length: units }, () => []);
  }

  /** Median of the accepted distances of this unit, null before there are enough. */
  usual(unit: number): number | null {
    const accepted = this.#accepted[unit] ?? [];
    if (accepted.length < WARM_UP) return null;
    const sorted = [...accepted].sort((a, b) => a - b);
    return sorted[sorted.length >> 1] ?? null;
  }

  /** `ownNorm`: that of the unit's own weights, which bounds the first pulls. Infinity: no bound (a factor of Infinity). */
  radius(unit: number, ownNorm: number): number {
    if (this.#factor === Infinity) return Infinity;
    const usual = this.usual(unit);
    return usual === null ? ownNorm : Math.max(usual * this.#factor, ownNorm * ROUNDING);
  }

  /**
   * A distance that was merged. One beyond the radius counts as the radius, so that the median cannot be dragged away in one go. None tells
   * nothing: the two had the same weights, as all have before anybody trained.
   */
  accept(unit: number, distance: number, radius: number): void {
    const accepted = this.#accepted[unit];
    const counts = Math.min(distance, radius);
    if (!accepted || !Number.isFinite(distance) || counts === 0) return;
    accepted.push(counts);
    if (accepted.length > REMEMBERED) accepted.shift();
  }
}

/**
 * What is left of a contribution at this distance: min(1, radius / distance). 0 where that is smaller than what f32 holds with all its bits,
 * because rounded up it would bring the contribution to beyond the radius.
 */
export function clipFactor(distance: number, radius: number): number {
  if (distance <= radius || distance === 0) return 1;
  const factor = radius / distance;
  return factor < SMALLEST_FACTOR ? 0 : factor;
}
