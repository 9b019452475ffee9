// The one error of the mesh: what went wrong (with its numbers), what to do about it, and a code that programs can match.
// Codes travel over links and between threads; `fix` is an instruction to a person.

export type MeshErrorCode =
  | 'usage' // unknown option, bad value, bad configuration file
  | 'bad-uid'
  | 'bad-file' // a file that is not what it says
  | 'no-gpu'
  | 'gpu-lost'
  | 'out-of-memory'
  | 'kernel' // a shader that does not compile, an invalid GPU operation
  | 'unreachable' // a peer, the monitor or an address does not answer
  | 'unauthorized' // wrong token, failed challenge
  | 'forged-record'
  | 'expired-record'
  | 'stage-shapes' // stages that do not fit together
  | 'busy' // the stage serves another run
  | 'no-stage' // the peer does not host that UID, or has not opened it
  | 'no-replica' // no replica of a stage is left
  | 'malformed' // a frame or message that breaks its schema
  | 'too-large' // beyond a declared limit
  | 'not-finite' // NaN or infinity where a number must be
  | 'deadline'
  | 'cancelled'
  | 'link-lost'
  | 'stale' // a step or attempt that is over
  | 'conflict' // contributions that do not match the plan
  | 'port-in-use'
  | 'closed'
  | 'internal';

export interface MeshErrorShape {
  code: MeshErrorCode;
  message: string;
  fix: string;
}

export class MeshError extends Error {
  override readonly name = 'MeshError';
  readonly code: MeshErrorCode;
  readonly fix: string;

  constructor(code: MeshErrorCode, message: string, fix: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.fix = fix;
  }

  /** Plain data for a thread or a wire. */
  toShape(): MeshErrorShape {
    return { code: this.code, message: this.message, fix: this.fix };
  }

  static fromShape(shape: MeshErrorShape): MeshError {
    return new MeshError(shape.code, shape.message, shape.fix);
  }
}

/** Any thrown value as a MeshError; unknown ones become `internal` and keep their cause. */
export function toMeshError(cause: unknown): MeshError {
  if (cause instanceof MeshError) return cause;
  if (cause instanceof DOMException && cause.name === 'AbortError')
    return new MeshError('cancelled', 'The operation was cancelled.', 'Nothing to do.', { cause });
  if (cause instanceof DOMException && cause.name === 'TimeoutError')
    return new MeshError('deadline', 'The operation missed its deadline.', 'Try again, or raise the deadline.', {
      cause,
    });
  const message = cause instanceof Error ? cause.message : String(cause);
  return new MeshError('internal', message, 'This is a defect: please report it with the steps that led here.', {
    cause,
  });
}

/** Exit codes: 1 failed, 2 usage, 3 no GPU, 4 unreachable or not authorised. */
export function exitCodeOf(error: MeshError): number {
  switch (error.code) {
    case 'usage':
    case 'bad-uid':
    case 'bad-file':
    case 'stage-shapes':
      return 2;
    case 'no-gpu':
      return 3;
    case 'unreachable':
    case 'unauthorized':
      return 4;
    default:
      return 1;
  }
}
