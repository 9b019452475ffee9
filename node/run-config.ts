// Reads a run's YAML file; an error names the line.
import { withFolder } from './hf-start.ts';
import { readYaml } from './yaml-config.ts';
import { parseRunConfig, runConfigSchema, type RunConfig } from '../runtime/train/config.ts';

/** Throws `bad-file` when it cannot be read, `usage` with file:line when it is wrong. Values in `over` win over the file's. */
export function readRunConfig(file: string | undefined, over: Record<string, unknown> = {}): RunConfig {
  const given = Object.fromEntries(Object.entries(over).filter(([, value]) => value !== undefined));
  if (file === undefined) return parseRunConfig(given);
  return parseRunConfig({ ...readYaml(file, runConfigSchema, withFolder), ...given });
}
