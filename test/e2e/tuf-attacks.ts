/**
 * What an attacker can make of a repository: with the mirror alone, with the online key as well, with that and one
 * custodian's key of the two that are needed. Each attack is a set of files for a hostile mirror.
 */
import { type TufClientName, tufClientNames } from './tuf-clients.ts'
import {
  type Files,
  filesOf,
  FORGED,
  forgedRoot,
  forgedTargets,
  type Hand,
  keyIn,
  type Loot,
  nextVersion,
  put,
  read,
  sign,
  signOnline,
  signTimestamp,
  TARGET,
} from './tuf-forgery.ts'
import { type Refusal, refusals } from './tuf-refusals.ts'

/**
 * `cached`: a client that has seen the last step. `pinned`: the same, but it is given the first root at every run.
 * `fresh`: one that has only the first root.
 */
export type ClientState = 'cached' | 'pinned' | 'fresh'

/** One attack, and for which clients it is one. */
export interface Attack {
  readonly name: string
  readonly against: readonly ClientState[]
  /** What the clients say. */
  readonly refusal: Refusal
  readonly files: (loot: Loot) => Promise<Files> | Files
}

const both = ['cached', 'fresh'] as const

/** Who signs, and what the clients say of targets and of a root that they signed if it is not that signatures lack. */
const undersigned: readonly [string, (loot: Loot) => readonly Hand[], Refusal?, Refusal?][] = [
  ['one custodian of two', ({ insider }) => [{ key: insider }]],
  [
    'one custodian twice',
    ({ insider }) => [{ key: insider }, { key: insider }],
    refusals.signedTwice,
    refusals.signedTwice,
  ],
  ['one custodian for another', ({ insider, honest }) => [{ key: insider }, { key: insider, under: honest }]],
  ['one custodian and a former one', ({ insider, former }) => [{ key: insider }, { key: former }]],
  ['one custodian and a stranger', ({ insider }) => [{ key: insider }, 'stranger']],
  ['a stranger', () => ['stranger']],
]

export const attacks: readonly Attack[] = [
  // Rolled back: what was once right is served again.
  {
    name: 'rolled back to the step before',
    against: ['cached'],
    refusal: refusals.lowerTimestamp,
    files: ({ step }) => filesOf(step('backup outlived')),
  },
  {
    name: 'rolled back to before the root rotation, newer roots hidden',
    against: ['cached', 'pinned', 'fresh'],
    refusal: refusals.unsignedTimestamp,
    files: ({ step }) => filesOf(step('targets changed')),
  },
  {
    name: 'the snapshot rolled back under a new timestamp by the stolen online key',
    against: ['cached'],
    refusal: refusals.lowerSnapshot,
    files: async (loot) => {
      const files = filesOf(loot.last)
      const { snapshot } = loot.step('targets changed by two').versions
      await signTimestamp(loot, files, snapshot)
      return files
    },
  },
  {
    name: 'the targets rolled back under a new snapshot by the stolen online key',
    against: ['cached'],
    refusal: refusals.lowerTargets,
    files: async (loot) => {
      const files = filesOf(loot.last)
      await signOnline(loot, files, loot.step('root key rotated').versions.targets)
      return files
    },
  },
  {
    name: 'the first root in the place of the next one',
    against: ['cached'],
    refusal: refusals.unsignedRoot,
    files: ({ last }) => {
      const next = `${last.versions.root + 1}.root.json`
      return filesOf(last).set(next, last.files.get('1.root.json') ?? FORGED)
    },
  },
  {
    name: 'the newest root in the place of the next one',
    against: both,
    refusal: refusals.otherRoot,
    files: ({ last }) => {
      const next = `${last.versions.root + 1}.root.json`
      return filesOf(last).set(next, last.files.get(`${last.versions.root}.root.json`) ?? FORGED)
    },
  },
  // Mixed: files of several publications, each of them rightly signed.
  {
    name: 'an old snapshot in the place of the newest',
    against: ['fresh'],
    refusal: refusals.otherSnapshot,
    files: ({ last, step }) => {
      const old = step('targets changed by two')
      const bytes = old.files.get(`${old.versions.snapshot}.snapshot.json`) ?? FORGED
      return filesOf(last).set(`${last.versions.snapshot}.snapshot.json`, bytes)
    },
  },
  {
    name: 'old targets in the place of the newest',
    against: ['fresh'],
    refusal: refusals.otherTargets,
    files: ({ last, step }) => {
      const old = step('standby added')
      const bytes = old.files.get(`${old.versions.targets}.targets.json`) ?? FORGED
      return filesOf(last).set(`${last.versions.targets}.targets.json`, bytes)
    },
  },
  {
    name: 'an old target file in the place of the newest',
    against: ['fresh'],
    refusal: refusals.otherFile,
    files: ({ last, step }) => {
      const old = step('first publication').targets[TARGET] ?? ''
      const bytes = last.files.get(`targets/${old}.${TARGET}`) ?? FORGED
      return filesOf(last).set(`targets/${last.targets[TARGET] ?? ''}.${TARGET}`, bytes)
    },
  },
  {
    name: 'a timestamp that the former online key signed, over the newest files',
    against: ['fresh'],
    refusal: refusals.unsignedTimestamp,
    files: ({ last, step }) =>
      filesOf(last).set('timestamp.json', step('root renewed').files.get('timestamp.json') ?? FORGED),
  },
  // A stolen online key.
  {
    name: 'a changed target file',
    against: ['fresh'],
    refusal: refusals.otherFile,
    files: ({ last }) => filesOf(last).set(`targets/${last.targets[TARGET] ?? ''}.${TARGET}`, FORGED),
  },
  {
    name: 'changed targets under a new snapshot by the stolen online key, signatures left as they were',
    against: both,
    refusal: refusals.unsignedTargets,
    files: async (loot) => {
      const files = filesOf(loot.last)
      const { signatures } = read(files, `${loot.last.versions.targets}.targets.json`)
      const signed = forgedTargets(loot, files)
      put(files, `${signed.version}.targets.json`, { signed, signatures })
      await signOnline(loot, files, signed.version)
      return files
    },
  },
  {
    name: 'changed targets under a new snapshot by the stolen online key, signed by nobody',
    against: both,
    refusal: refusals.unsignedTargets,
    files: async (loot) => {
      const files = filesOf(loot.last)
      const signed = forgedTargets(loot, files)
      put(files, `${signed.version}.targets.json`, { signed, signatures: [] })
      await signOnline(loot, files, signed.version)
      return files
    },
  },
  // Under-signed: the attacker has the online key and one custodian's key of the two that are needed.
  ...undersigned.map(
    ([by, hands, refusal = refusals.unsignedTargets]): Attack => ({
      name: `changed targets under a new snapshot by the stolen online key, signed by ${by}`,
      against: both,
      refusal,
      files: async (loot) => {
        const files = filesOf(loot.last)
        const signed = forgedTargets(loot, files)
        for (const key of [loot.insider, loot.former]) {
          signed.version = await nextVersion(loot.keys.custodians, key, 'targets', signed.version)
        }
        put(files, `${signed.version}.targets.json`, await sign(loot, signed, hands(loot)))
        await signOnline(loot, files, signed.version)
        return files
      },
    }),
  ),
  ...undersigned.map(
    ([by, hands, , refusal = refusals.unsignedRoot]): Attack => ({
      name: `a next root that gives the repository away, signed by ${by}`,
      against: both,
      refusal,
      files: async (loot) => {
        const { last, keys, former } = loot
        const files = filesOf(last)
        const signed = forgedRoot(loot, ...(await keyIn(last, keys.custodians, former)))
        put(files, `${signed.version}.root.json`, await sign(loot, signed, hands(loot)))
        return files
      },
    }),
  ),
  // The place of the next root, which must be a 404 where there is none.
  ...(
    [
      ['a friendly page', { status: 200, body: '<html>welcome</html>' }, refusals.notJson],
      ['"forbidden"', { status: 403, body: 'forbidden' }, refusals.forbidden],
      ['an error', { status: 500, body: 'internal error' }, refusals.failing],
      ['20 MB', { status: 200, body: ' '.repeat(20_000_000) }, refusals.tooLarge],
    ] as const
  ).map(
    ([answer, served, refusal]): Attack => ({
      name: `${answer} for a next root that there is not`,
      against: both,
      refusal,
      files: ({ last }) => filesOf(last).set(`${last.versions.root + 1}.root.json`, served),
    }),
  ),
]

/** What is not refused, and why that is borne. One that is refused one day is a failure: then this list is wrong. */
export const gaps: readonly {
  readonly attack: RegExp
  readonly state?: ClientState
  readonly clients: readonly TufClientName[]
  readonly because: string
}[] = [
  {
    attack: /^rolled back to before the root rotation/,
    state: 'pinned',
    clients: ['go-tuf v2'],
    because:
      'it forgets the newer root that it had cached, and with it what the newer online key signed; so the old ' +
      'timestamp counts again for as long as it holds. Give cosign no TUF_ROOT_JSON beside a cache, or the newest root',
  },
  {
    attack: /^rolled back to before the root rotation/,
    state: 'fresh',
    clients: tufClientNames,
    because: 'who has only the first root cannot know of more; TUF bounds this by the end of the old timestamp',
  },
  {
    attack: /^"forbidden" for a next root/,
    clients: ['tuf-js', 'python-tuf'],
    because: 'they take 403 for 404, since a bucket without listing answers so; the newest root stays in force',
  },
]
