// Figures as people read them.

export function bytes(count: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = count;
  let unit = 0;
  while (value >= 1_000 && unit < units.length - 1) {
    value /= 1_000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit] ?? ''}`;
}

/** Of what is loaded or pulled as a whole, in units that add up to its size in memory. */
export const mebibytes = (count: number): string => `${(count / 2 ** 20).toFixed(1)} MiB`;

export function rate(perSecond: number): string {
  return perSecond >= 100 ? Math.round(perSecond).toLocaleString('en') : perSecond.toFixed(1);
}

export const whole = (count: number): string => Math.round(count).toLocaleString('en');

export const loss = (value: number | null): string => (value === null ? '–' : value.toFixed(3));

export const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '–';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const clock = (atMs: number): string => new Date(atMs).toLocaleTimeString('en-GB');

export const shortPeer = (peer: string): string => peer.slice(0, 8);

/** A stranger's text for one line: no control or direction-changing characters, and not too long. */
export const plainText = (text: string, limit = 200): string =>
  // oxlint-disable-next-line no-control-regex
  text.slice(0, limit).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ' ');
