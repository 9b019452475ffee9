// The autotuner's store in a browser: one IndexedDB object store, opened for each use, in a worker or a page. Where the browser keeps
// nothing (a private window), reads find nothing and writes reject: the tuner measures again.
import type { TuningStore } from '../runtime/gpu/tuning-store.ts';

const DATABASE = 'skein-tuning';
const ENTRIES = 'entries';

const settled = <T>(request: IDBRequest<T>): Promise<T> =>
  new Promise((resolve, reject) => {
    request.addEventListener('success', () => resolve(request.result));
    request.addEventListener('error', () => reject(request.error ?? new Error('IndexedDB failed')));
  });

function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(DATABASE, 1);
  request.addEventListener('upgradeneeded', () => request.result.createObjectStore(ENTRIES));
  return settled(request);
}

async function withEntries<T>(mode: IDBTransactionMode, body: (entries: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await open();
  try {
    return await settled(body(database.transaction(ENTRIES, mode).objectStore(ENTRIES)));
  } finally {
    database.close();
  }
}

export const tuningStore = (): TuningStore => ({
  read: (key) => withEntries<unknown>('readonly', (entries) => entries.get(key)),
  write: async (key, entry) => {
    await withEntries('readwrite', (entries) => entries.put(entry, key));
  },
});
