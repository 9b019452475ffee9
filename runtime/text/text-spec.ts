// What a configuration may say about the text of a language model: which text, which tokenizer, how much is held out. Loading is the
// host's business.
import { z } from 'zod';

const path = z.string().min(1);

export const textSpecSchema = z.strictObject({
  /** `sotu` (the State of the Union addresses), or UTF-8 files by path or glob; they are joined with an empty line between them. */
  text: z.union([path, z.array(path).min(1)], {
    error: 'is `sotu`, the path or glob of a text file, or a list of those',
  }),
  /**
   * `char`: a token for each character; `gpt2`: GPT-2's vocabulary; `train`: byte-level BPE of that many tokens, trained on the text
   * that is not held out; or the path of a tokenizer.json or of a folder that holds one.
   */
  tokenizer: z
    .union(
      [
        path,
        z.strictObject({
          train: z
            .int()
            .min(256)
            .max(2 ** 20),
        }),
      ],
      {
        error: 'is `char`, `gpt2`, the path of a tokenizer.json, or { train: N } with N from 256 to 1048576',
      },
    )
    .default('char'),
  /** Share of the text, from its end, that is tested on and never trained on. */
  heldOut: z.number().gt(0).max(0.9).default(0.1),
  /** Tokens to a window; the model's own context if absent. */
  contextLength: z
    .int()
    .min(1)
    .max(2 ** 20)
    .optional(),
});
export type TextSpec = z.infer<typeof textSpecSchema>;
