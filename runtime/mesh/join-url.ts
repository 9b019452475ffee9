// The join link: http(s)://host:port/#token=…&cert=…. The token stays in the fragment, which a browser never sends to a server.
import { MeshError } from '../errors.ts';

/** Parsed from a join link: http(s)://host:port/#token=… */
export interface JoinTarget {
  /** Scheme, host and port; no path and no fragment. */
  url: string;
  token: string;
  /** SHA-256 of the monitor's own certificate (64 hex digits), where it is not signed by an authority. */
  certificateSha256?: string;
}

export const TOKEN_PATTERN = /^[A-Za-z0-9_-]{8,200}$/;
const EXAMPLE = 'http://localhost:50000/#token=…';

/** Throws `usage`, saying what is wrong with the link; the token is never repeated in a message. */
export function parseJoinUrl(text: string): JoinTarget {
  const url = URL.canParse(text.trim()) ? new URL(text.trim()) : null;
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw refused('That is not a join link: it does not start with http:// or https:// and a host.');
  const fragment = new URLSearchParams(url.hash.slice(1));
  const token = fragment.get('token');
  const certificate = fragment.get('cert');
  if (!token) throw refused(`The join link to ${url.host} has no token.`);
  if (!TOKEN_PATTERN.test(token))
    throw refused(`The token in the join link to ${url.host} is not 8 to 200 letters, digits, _ or -.`);
  if (certificate !== null && !/^[0-9a-f]{64}$/i.test(certificate))
    throw refused(`The certificate fingerprint in the join link to ${url.host} is not 64 hex digits.`);
  return {
    url: url.origin,
    token,
    ...(certificate === null ? {} : { certificateSha256: certificate.toLowerCase() }),
  };
}

export function formatJoinUrl(target: JoinTarget): string {
  const certificate = target.certificateSha256 ? `&cert=${target.certificateSha256}` : '';
  return `${target.url}/#token=${target.token}${certificate}`;
}

const refused = (message: string): MeshError =>
  new MeshError(
    'usage',
    message,
    `Copy the whole link that the monitor printed (${EXAMPLE}), and put it in single quotes on a command line.`,
  );
