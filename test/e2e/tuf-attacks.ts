/**
 * What an attacker can make of a repository: with the mirror alone, with the online key as well, with that and one
 * custodian's key of the two that are needed. Each attack is a set of files for a hostile mirror.
 */
import { createHash } from 'node:crypto'
import { canonicalJson, type CanonicalValue } from '#trust-root'
import type { TufKeys } from '../support/tuf-keys.ts'
import type { Served } from './hostile-mirror.ts'
import type { TufClientName } from './tuf-clients.ts'
import { type Refusal, refusals } from './tuf-refusals.ts'
import type { Step } from './tuf-repository.ts'

export interface Loot {
  /** What honest clients have seen last. */
  readonly last: Step
  /** Any earlier step. */
  readonly step: (name: string) => Step
  readonly keys: TufKeys
  /** The name of the online key that the newest root trusts. */
  readonly onlineKey: string
  /** A custodian whose key the newest root trusts, and one whose key it does not. */
  readonly insider: string
  readonly outsider: string
}

type Files = Map<string, Served>
type Json = { [key: string]: CanonicalValue }
interface Signed {
  signed: Json & { _type: Role; version: number }
  signatures: { keyid: string; sig: string }[]
}
type Role = 'root' | 'targets' | 'snapshot' | 'timestamp'

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

/** The whole of a step, to be changed. */
function filesOf(step: Step): Files {
  return new Map(step.files)
}

function read(files: ReadonlyMap<string, Served>, name: string): Signed {
  const bytes = files.get(name)
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${name} is not there`)
  return JSON.parse(Buffer.from(bytes).toString('utf8')) as Signed
}

function put(files: Files, name: string, metadata: Signed): void {
  files.set(name, Buffer.from(JSON.stringify(metadata)))
}

/** Signs with keys of the agents, each under the id that is given or that it has in `root`. */
async function sign(
  { keys, last }: Loot,
  signed: Signed['signed'],
  signers: readonly { readonly key: string; readonly keyid?: string }[],
): Promise<Signed> {
  const role = signed._type
  const agent = role === 'root' || role === 'targets' ? keys.custodians : keys.online
  const payload = canonicalJson(signed)
  const signatures: { keyid: string; sig: string }[] = []
  for (const { key, keyid } of signers) {
    const sig = Buffer.from(await agent.tuf({ key, role, payload })).toString('hex')
    signatures.push({ keyid: keyid ?? (await keyIdIn(last, agent, key)), sig })
  }
  return { signed, signatures }
}

/** The id under which a root of the step names a key of an agent. */
async function keyIdIn(step: Step, agent: TufKeys['online'], name: string): Promise<string> {
  const spki = Buffer.from((await agent.key(name)).spkiDer).toString('base64')
  for (let version = step.versions.root; version > 0; version -= 1) {
    const keys = read(step.files, `${version}.root.json`).signed['keys'] as Record<
      string,
      { keyval: { public: string } }
    >
    const found = Object.entries(keys).find(
      ([, { keyval }]) => keyval.public.replaceAll(/-----[^-]*-----|\s/g, '') === spki,
    )
    if (found) return found[0]
  }
  return createHash('sha256').update(spki).digest('hex')
}

/** The next version of a role; an agent that signed for an earlier attack wants one above that. */
async function nextVersion(agent: TufKeys['online'], key: string, role: Role, published: number): Promise<number> {
  return Math.max((await agent.tufVersions({ key }))[role] ?? 0, published) + 1
}

/** A thief of the online key lets snapshot and timestamp name these targets. */
async function signOnline(loot: Loot, files: Files, targetsVersion: number): Promise<void> {
  const { last, keys, onlineKey } = loot
  const next = async (role: 'snapshot' | 'timestamp') => nextVersion(keys.online, onlineKey, role, last.versions[role])
  const snapshot = read(files, `${last.versions.snapshot}.snapshot.json`).signed
  snapshot.version = await next('snapshot')
  snapshot['meta'] = { ...(snapshot['meta'] as Json), 'targets.json': { version: targetsVersion } }
  put(files, `${snapshot.version}.snapshot.json`, await sign(loot, snapshot, [{ key: onlineKey }]))
  await signTimestamp(loot, files, snapshot.version)
}

async function signTimestamp(loot: Loot, files: Files, snapshotVersion: number): Promise<void> {
  const { last, keys, onlineKey } = loot
  const timestamp = read(last.files, 'timestamp.json').signed
  timestamp.version = await nextVersion(keys.online, onlineKey, 'timestamp', last.versions.timestamp)
  timestamp['meta'] = { 'snapshot.json': { version: snapshotVersion } }
  put(files, 'timestamp.json', await sign(loot, timestamp, [{ key: onlineKey }]))
}

const TARGET = 'trusted_root.json'
const FORGED = Buffer.from('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[]}')

/** Targets of the last step, but with a trusted root of the attacker's own. */
function forgedTargets({ last }: Loot, files: Files): Signed['signed'] {
  const { signed } = read(files, `${last.versions.targets}.targets.json`)
  const sha256 = createHash('sha256').update(FORGED).digest('hex')
  signed['targets'] = { ...(signed['targets'] as Json), [TARGET]: { length: FORGED.length, hashes: { sha256 } } }
  signed.version = last.versions.targets + 1
  files.set(`targets/${sha256}.${TARGET}`, FORGED)
  return signed
}

const both = ['cached', 'fresh'] as const

export const attacks: readonly Attack[] = [
  // Rolled back: what was once right is served again.
  {
    name: 'rolled back to the step before',
    against: ['cached'],
    refusal: refusals.lowerTimestamp,
    files: ({ step }) => filesOf(step('backup made')),
  },
  {
    name: 'rolled back to before the root rotation, newer roots hidden',
    against: ['cached', 'pinned'],
    refusal: refusals.unsignedTimestamp,
    files: ({ step }) => filesOf(step('targets changed')),
  },
  {
    name: 'the snapshot rolled back under a new timestamp by the stolen online key',
    against: ['cached'],
    refusal: refusals.lowerSnapshot,
    files: async (loot) => {
      const files = filesOf(loot.last)
      const { snapshot } = loot.step('root key and targets later').versions
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
    name: 'an old root in the place of the next one',
    against: ['cached'],
    refusal: refusals.unsignedRoot,
    files: ({ last }) => {
      const next = `${last.versions.root + 1}.root.json`
      return filesOf(last).set(next, last.files.get(`${last.versions.root - 1}.root.json`) ?? FORGED)
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
      const old = step('root key and targets later')
      const bytes = old.files.get(`${old.versions.snapshot}.snapshot.json`) ?? FORGED
      return filesOf(last).set(`${last.versions.snapshot}.snapshot.json`, bytes)
    },
  },
  {
    name: 'old targets in the place of the newest',
    against: ['fresh'],
    refusal: refusals.otherTargets,
    files: ({ last, step }) => {
      const old = step('root key rotated')
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
  // Under-signed.
  {
    name: 'changed targets signed by a key that the root does not name',
    against: both,
    refusal: refusals.unsignedTargets,
    files: async (loot) => {
      const files = filesOf(loot.last)
      const signed = forgedTargets(loot, files)
      signed.version = await nextVersion(loot.keys.custodians, loot.outsider, 'targets', signed.version)
      put(files, `${signed.version}.targets.json`, await sign(loot, signed, [{ key: loot.outsider }]))
      await signOnline(loot, files, signed.version)
      return files
    },
  },
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
    attack: /^"forbidden" for a next root/,
    clients: ['tuf-js', 'python-tuf'],
    because: 'they take 403 for 404, since a bucket without listing answers so; the newest root stays in force',
  },
]
