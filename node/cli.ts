// The command line: every command of the product behind one name.
import { Command } from 'commander';
import { runCommand } from './command.ts';
import { monitor } from '../signaling/main.ts';
import { config } from './config-generate.ts';
import { fetchModel } from './fetch.ts';
import { kernels } from './kernels.ts';
import { serve } from './serve.ts';
import { simulate } from './simulate.ts';
import { step } from './step.ts';
import { tokenize } from './tokenize.ts';
import { train } from './train.ts';

const program = new Command('skein')
  .description('A compute mesh on WebGPU: train one model across unequal machines.')
  .exitOverride()
  .showSuggestionAfterError()
  .addCommand(monitor)
  .addCommand(serve)
  .addCommand(train)
  .addCommand(step)
  .addCommand(simulate)
  .addCommand(tokenize)
  .addCommand(fetchModel)
  .addCommand(kernels)
  .addCommand(config);

await runCommand(program);
