// Reads a run's YAML file; an error names the line.
import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument, isMap, isSeq, type Node } from 'yaml';
import { MeshError } from '../runtime/errors.ts';
import { parseRunConfig, runConfigSchema, type RunConfig } from '../runtime/train/config.ts';

/** Throws `bad-file` when it cannot be read, `usage` with file:line when it is wrong. Values in `over` win over the file's. */
export function readRunConfig(file: string | undefined, over: Record<string, unknown> = {}): RunConfig {
  const given = Object.fromEntries(Object.entries(over).filter(([, value]) => value !== undefined));
  if (file === undefined) return parseRunConfig(given);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new MeshError(
      'bad-file',
      `${file} cannot be read: ${(cause as Error).message}.`,
      'Give the path of a YAML file with --config.',
      { cause },
    );
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [syntax] = document.errors;
  if (syntax) throw wrong(`${file}:${lines.linePos(syntax.pos[0]).line}: ${syntax.message.split('\n')[0] ?? ''}`);
  const value: unknown = document.toJS() ?? {};
  const parsed = runConfigSchema.safeParse(value);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const unknown = issue?.code === 'unrecognized_keys' ? issue.keys[0] : undefined;
    const path = [...(issue?.path ?? []), ...(unknown === undefined ? [] : [unknown])];
    throw wrong(`${file}:${lineAt(document.contents, path, lines)}: ${path.join('.')}: ${issue?.message ?? ''}`);
  }
  return parseRunConfig({ ...(value as object), ...given });
}

function lineAt(root: unknown, path: readonly PropertyKey[], lines: LineCounter): number {
  let node: unknown = root;
  let offset = 0;
  for (const key of path) {
    if (isMap(node)) {
      const pair = node.items.find((item) => String(item.key) === String(key));
      if (!pair) break;
      offset = (pair.key as Node).range?.[0] ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(key)];
      offset = (node as Node | undefined)?.range?.[0] ?? offset;
    } else break;
  }
  return lines.linePos(offset).line;
}

const wrong = (what: string): MeshError =>
  new MeshError(
    'usage',
    `The run's configuration is wrong: ${what}.`,
    'Correct that line; `node node/train.ts --help` shows an example.',
  );
