// Whether a replica's slow weights are still those of the others, told by what each of them has in its own. Pure: who sees the same standings
// decides alike, so that of two that parted one follows the other and not each the other.
import type { Uid } from '../wire/ids.ts';
import type { Reply } from '../wire/messages.ts';

/**
 * `merged`: whose contributions were in the last exchange of a group; of weights that were taken over, those of the one that they are from.
 * `lineage`: the same for equal contributions in every exchange only.
 */
export type Standing = NonNullable<Reply<'layers.pull'>['before']>;

/** After an exchange with these, in the order of their UIDs. FNV-1a, 32 bits. */
export function standingAfter(before: Standing | null, merged: readonly Uid[]): Standing {
  let hash = 0x811c9dc5;
  for (const character of `${before?.lineage ?? ''} ${merged.join()}`)
    hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  return { merged: [...merged], lineage: (hash >>> 0).toString(16).padStart(8, '0') };
}

/**
 * From whom to take over, the best first; nobody: one's own weights stand. `others`: who told its standing, or that it has gone on and no
 * longer has what it was asked for.
 *
 * Left behind is who was in its own last exchange and not in those of most others: it slept, or was cut off. Of the others what most have
 * stands; of equally many, what more contributed to. Where all were cut off from each other, that holds for all.
 */
export function whomToFollow(self: Uid, own: Standing | null, others: ReadonlyMap<Uid, Standing | 'gone-on'>): Uid[] {
  const told: { uid: Uid; standing: Standing }[] = own ? [{ uid: self, standing: own }] : [];
  const goneOn: Uid[] = [];
  for (const [uid, standing] of others) {
    if (standing === 'gone-on') goneOn.push(uid);
    else told.push({ uid, standing });
  }
  if (goneOn.length * 2 > others.size) return goneOn;
  const isLeft = ({ uid, standing }: (typeof told)[number]): boolean => {
    if (!standing.merged.includes(uid)) return false;
    const without = told.filter((other) => other.uid !== uid && !other.standing.merged.includes(uid)).length;
    const gone = uid === self ? goneOn.length : 0;
    return (without + gone) * 2 > told.length - 1 + gone;
  };
  const firm = told.filter((one) => !isLeft(one));
  if (firm.length === 0 && goneOn.length > 0) return goneOn;
  const lineages = Map.groupBy(firm.length > 0 ? firm : told, ({ standing }) => standing.lineage);
  const [best = []] = [...lineages.values()].sort(
    (a, b) => b.length - a.length || sizeOf(b) - sizeOf(a) || (firstOf(a) < firstOf(b) ? -1 : 1),
  );
  const holders = best.map(({ uid }) => uid);
  return holders.includes(self) ? [] : holders;
}

type Told = readonly { uid: Uid; standing: Standing }[];
const sizeOf = (told: Told): number => told[0]?.standing.merged.length ?? 0;
const firstOf = (told: Told): string => told.map(({ uid }) => uid).sort()[0] ?? '';
