// `skein fetch`: a model from the Hugging Face Hub into a folder here, for `start` of a run.
import { homedir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { command, option } from './command.ts';
import { hubFolder } from './hf-hub.ts';

const schema = z.strictObject({
  arguments: z.tuple([z.string()]),
  revision: z.string().min(1).default('main'),
  endpoint: z.string().min(1).optional(),
  to: z.string().min(1).optional(),
});

export const fetchModel = command({
  name: 'fetch',
  description: 'Get a model from the Hugging Face Hub; what is here already is not fetched again.',
  arguments: ['<owner/name>'],
  options: [
    option('--revision <name>', 'branch, tag or commit (default: main)'),
    option(
      '--endpoint <url>',
      'another server with the layout of the Hub (default: HF_ENDPOINT, or https://huggingface.co)',
    ),
    option('--to <folder>', 'where models are kept (default: ~/.cache/skein/hub)'),
  ],
  schema,
  examples: [
    'node node/cli.ts fetch openai-community/gpt2',
    "node node/train.ts --join 'http://localhost:50000/#token=…' --config run.yaml   # with start: <the folder>",
  ],
  run: async ({ arguments: [repo], revision, endpoint, to }, { say, print, signal, isJson }) => {
    const root = process.env['SKEIN_CACHE'] ?? path.join(homedir(), '.cache', 'skein');
    const token = process.env['HF_TOKEN'];
    let last = '';
    const folder = await hubFolder({
      ...{ repo, revision, cacheDir: to ?? path.join(root, 'hub'), signal },
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(token === undefined || token === '' ? {} : { token }),
      onProgress: ({ file, doneBytes, totalBytes }) => {
        const share = totalBytes === null ? '' : ` ${Math.floor((doneBytes / totalBytes) * 100)} %`;
        const line = `${file}${share}`;
        if (line !== last) say(line);
        last = line;
      },
    });
    print(isJson ? JSON.stringify({ kind: 'fetch.done', repo, revision, folder }) : folder);
  },
});
