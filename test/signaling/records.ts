// Records for the tests of the directory.
import { parseUid, type PeerId } from '../../runtime/wire/ids.ts';
import { RECORD_TTL_MS, type StageRecord } from '../../runtime/wire/records.ts';

export const stageRecordOf = (
  peer: PeerId,
  name: string,
  issuedAt: number,
  fields: Partial<StageRecord> = {},
): StageRecord => ({
  kind: 'stage',
  name: parseUid(name).uid,
  addresses: [{ transport: 'tcp', host: '127.0.0.1', port: 50_500 }],
  host: 'node',
  device: 'test',
  isSoftware: true,
  samplesPerSecond: 0,
  load: 0,
  isPaused: false,
  run: null,
  peer,
  issuedAt,
  expiresAt: issuedAt + RECORD_TTL_MS,
  ...fields,
});
