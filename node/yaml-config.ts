// Reads a configuration from a YAML file; an error names the line.
import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument, isMap, isSeq, visit, type Document, type Node } from 'yaml';
import type { z } from 'zod';
import { MeshError } from '../runtime/errors.ts';

/**
 * The document in the file, as it stands there, if it fits the schema; `prepare` may fill in what is left out, first. Throws `bad-file` when
 * it cannot be read, `usage` with file:line when it is wrong.
 */
export function readYaml(file: string, schema: z.ZodType, prepare = (value: unknown): unknown => value): object {
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
  const value = prepare(valueOf(document, file, lines));
  const parsed = schema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues.map(closest);
    const unknown = issue?.code === 'unrecognized_keys' ? issue.keys[0] : undefined;
    const path = [...(issue?.path ?? []), ...(unknown === undefined ? [] : [unknown])];
    const where = path.join('.') || 'the document';
    throw wrong(`${file}:${lineAt(document.contents, path, lines)}: ${where}: ${issue?.message ?? ''}`);
  }
  return value as object;
}

/** Throws for what YAML only finds when it builds the values: an alias to nothing, or to far too much. */
function valueOf(document: Document, file: string, lines: LineCounter): unknown {
  try {
    return document.toJS() ?? {};
  } catch (cause) {
    let at = 0;
    visit(document, {
      Alias: (_, alias) => {
        at = alias.range?.[0] ?? 0;
        return alias.resolve(document) ? undefined : visit.BREAK;
      },
    });
    throw wrong(`${file}:${lines.linePos(at).line}: ${(cause as Error).message}`);
  }
}

/** Where a value may be one of several things: what is wrong with it as the one that it comes closest to. */
function closest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue;
  const closeness = (one: z.core.$ZodIssue): number =>
    one.path.length > 0 || one.code === 'unrecognized_keys' || one.code === 'invalid_union'
      ? 2
      : one.code === 'invalid_type'
        ? 0
        : 1;
  const tried = issue.errors.flatMap((found) => (found[0] ? [{ first: found[0], count: found.length }] : []));
  const best = tried.sort((a, b) => closeness(b.first) - closeness(a.first) || a.count - b.count)[0]?.first;
  return best ? closest({ ...best, path: [...issue.path, ...best.path] }) : issue;
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
  new MeshError('usage', `The configuration is wrong: ${what}.`, 'Correct that line; --help shows an example.');
