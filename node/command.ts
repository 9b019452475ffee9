// What every command of the command line shares: options with an environment variable each, events on the two outputs, errors as
// "error" and "fix", signals, exit codes. Standard output carries JSON events only; what people read goes to standard error.
import { Command, CommanderError, Option } from 'commander';
import type { z } from 'zod';
import { exitCodeOf, MeshError, toMeshError } from '../runtime/errors.ts';
import type { Emit } from '../runtime/events.ts';
import { withoutControls } from './event-lines.ts';
import { terminal } from './terminal.ts';

export interface CommandContext {
  /** Prints an event: a line for people, and with --json the event itself. */
  emit: Emit;
  /** Prints a line for people. */
  say: (line: string) => void;
  /** Prints a result of the command on standard output. */
  print: (line: string) => void;
  /** Aborted by the first Ctrl-C or SIGTERM; the command then ends by itself. A second one ends it at once. */
  signal: AbortSignal;
  isJson: boolean;
}

export interface CommandSpec<Options> {
  name: string;
  description: string;
  /** Arguments as commander writes them, such as `<file>` or `[names...]`; they are `arguments` among the options. */
  arguments?: string[];
  options: Option[];
  /** Parses what the options hold (their long names in camelCase); its defaults are the defaults. */
  schema: z.ZodType<Options>;
  /** Shown by --help, without a leading `$`. */
  examples: string[];
  /** Returns the exit code: without one 0, or 130 when `signal` ended it. */
  run: (options: Options, context: CommandContext) => Promise<number | void>;
}

/** An option whose environment variable is SKEIN_ and its long name: `--public-host` is SKEIN_PUBLIC_HOST. */
export function option(flags: string, description: string): Option {
  const made = new Option(flags, description);
  return made.env(`SKEIN_${made.name().replaceAll('-', '_').toUpperCase()}`);
}

/** A commander command; give it to `runCommand`, or to `addCommand` of another. */
export function command<Options>(spec: CommandSpec<Options>): Command {
  const made = new Command(spec.name).description(spec.description).exitOverride();
  for (const argument of spec.arguments ?? []) made.argument(argument);
  for (const one of spec.options) made.addOption(one);
  made.addOption(option('--json', 'print one event a line on standard output'));
  made.addOption(option('--debug', 'print the stack of an error'));
  made.addHelpText('after', `\nExamples:\n${spec.examples.map((example) => `  $ ${example}`).join('\n')}`);
  made.action(async () => {
    const { json, debug, ...given } = made.opts();
    const wanted = spec.arguments ? { ...given, arguments: made.args } : given;
    process.exitCode = await perform(spec, wanted, { isJson: isOn(json), isDebug: isOn(debug) });
  });
  return made;
}

/** Parses the arguments, runs the command and ends the process with its exit code. */
export async function runCommand(program: Command, argv: readonly string[] = process.argv): Promise<never> {
  process.stdout.on('error', () => process.exit(1)); // the reader of our output has gone
  try {
    await program.exitOverride().parseAsync([...argv]);
  } catch (cause) {
    // Commander has printed its message already; help and version are no failures.
    if (cause instanceof CommanderError) process.exitCode = cause.exitCode === 0 ? 0 : 2;
    else process.exitCode = report(cause, false);
  }
  await new Promise((resolve) => process.stdout.write('', resolve));
  process.exit(); // native add-ons may keep threads that would hold the process, or crash on the way out
}

async function perform<Options>(
  spec: CommandSpec<Options>,
  given: object,
  { isJson, isDebug }: { isJson: boolean; isDebug: boolean },
): Promise<number> {
  const controller = new AbortController();
  const onSignal = () => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new DOMException('Interrupted.', 'AbortError'));
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  process.on('disconnect', onSignal); // the process that started this one is gone
  try {
    const code = await spec.run(parseOptions(spec.schema, given), createContext(controller.signal, isJson));
    return code ?? (controller.signal.aborted ? 130 : 0);
  } catch (cause) {
    if (controller.signal.aborted && toMeshError(cause).code === 'cancelled') return 130;
    return report(cause, isDebug);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    process.off('disconnect', onSignal);
  }
}

function createContext(signal: AbortSignal, isJson: boolean): CommandContext {
  const { say, show } = terminal(process.stderr);
  const print = (line: string) => void process.stdout.write(`${line}\n`);
  const emit: Emit = (event) => {
    if (isJson) print(JSON.stringify(event));
    show(event);
  };
  return { emit, say, print, signal, isJson };
}

function parseOptions<Options>(schema: z.ZodType<Options>, given: object): Options {
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const flag = String(issue?.path[0] ?? 'options').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new MeshError(
    'usage',
    `--${flag} (or SKEIN_${flag.replaceAll('-', '_').toUpperCase()}): ${issue?.message}.`,
    'See --help for what it takes.',
  );
}

function report(cause: unknown, isDebug: boolean): number {
  const error = toMeshError(cause);
  process.stderr.write(`error: ${withoutControls(error.message)}\nfix: ${withoutControls(error.fix)}\n`);
  const stack = cause instanceof Error ? cause.stack : undefined;
  if (isDebug && stack) process.stderr.write(`${stack}\n`);
  return exitCodeOf(error);
}

/** A switch is `true` on the command line and text in the environment. */
export const isOn = (value: unknown): boolean =>
  value !== undefined && value !== false && !['', '0', 'false'].includes(String(value));

/**
 * How a person types one of our commands. npm scripts run under the Node 24 that is among the packages; where the shell's own is older
 * (npm says which that is), `node node/serve.ts` would not work there, and the launcher does.
 */
export function spelled(name: 'serve' | 'train'): string {
  const shellNode = process.env.npm_node_execpath;
  const isBundled = process.execPath !== shellNode && process.execPath.includes('node_modules');
  return shellNode && isBundled ? `npx skein ${name}` : `node node/${name}.ts`;
}
