#!/usr/bin/env node
// The command `skein`: node/cli.ts under a Node that can run it, whatever Node this was started by.
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { runModern } from './modern-node.mjs';

process.exit(await runModern(fileURLToPath(new URL('cli.ts', import.meta.url)), process.argv.slice(2)));
