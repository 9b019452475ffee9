// Branded ids, made only by parsing. A UID names a stage replica: {stage_name}.{version}.{expert_index}.{subversion}.
import { z } from 'zod';
import { MeshError } from '../errors.ts';

/** The peer's Ed25519 public key, base64url (43 characters). */
export const peerIdSchema = z
  .string()
  .regex(/^[A-Za-z0-9_-]{43}$/, 'a peer id is 43 characters of base64url')
  .brand<'PeerId'>();
export type PeerId = z.infer<typeof peerIdSchema>;

const UID_PATTERN = /^([a-z][a-z0-9_-]{0,31})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})$/;

export const uidSchema = z
  .string()
  .regex(UID_PATTERN, 'a UID is {stage_name}.{version}.{expert_index}.{subversion}')
  .brand<'Uid'>();
export type Uid = z.infer<typeof uidSchema>;

export const stageNameSchema = z
  .string()
  .regex(/^[a-z][a-z0-9_-]{0,31}$/, 'a stage name is up to 32 of a-z 0-9 _ -, a letter first');

export const runIdSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, 'a run id is up to 64 letters, digits, _ or -')
  .brand<'RunId'>();
export type RunId = z.infer<typeof runIdSchema>;

export interface UidParts {
  stage: string;
  version: number;
  expertIndex: number;
  subversion: number;
}

/** Throws `bad-uid` with what a UID looks like. */
export function parseUid(text: string): UidParts & { uid: Uid } {
  const match = UID_PATTERN.exec(text);
  if (!match)
    throw new MeshError(
      'bad-uid',
      `"${text}" is not a stage UID.`,
      'Write {stage_name}.{version}.{expert_index}.{subversion}, for example front.0.1.0.',
    );
  const [, stage, version, expertIndex, subversion] = match;
  return {
    uid: text as Uid,
    stage: stage ?? '',
    version: Number(version),
    expertIndex: Number(expertIndex),
    subversion: Number(subversion),
  };
}

export const formatUid = (parts: UidParts): Uid =>
  parseUid(`${parts.stage}.${parts.version}.${parts.expertIndex}.${parts.subversion}`).uid;
