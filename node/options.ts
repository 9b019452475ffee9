// Small pieces that the commands share: schemas of options, and what they do with the monitor.
import { z } from 'zod';

export { publishTo } from '../runtime/mesh/publish.ts';

export const port = z.coerce
  .number()
  .refine((value) => Number.isInteger(value) && value >= 0 && value <= 65_535, 'a port is a whole number up to 65535');

/** Repeated on the command line, separated by spaces or commas in the environment. */
export const list = <T extends z.ZodType>(item: T): z.ZodType<z.infer<T>[]> =>
  z.preprocess(
    (value) =>
      (Array.isArray(value) ? value : String(value ?? '').split(/[\s,]+/))
        .flatMap((text) => String(text).split(','))
        .filter((text) => text !== ''),
    z.array(item),
  ) as unknown as z.ZodType<z.infer<T>[]>;

export const allowSchema = z
  .preprocess(
    (value) =>
      value === undefined
        ? undefined
        : (Array.isArray(value) ? value : [value]).flatMap((text) => String(text).split(/[\s,]+/)),
    z.array(z.enum(['tcp', 'webrtc', 'relay'])).optional(),
  )
  .optional();

export const whenAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
