/** The tools of an attacker on a TUF repository: files of several steps, and signatures of the keys that were stolen. */
import { createHash, generateKeyPairSync, sign as signWith } from 'node:crypto'
import { canonicalJson, type CanonicalValue } from '#trust-root'
import type { TufKeys } from '../support/tuf-keys.ts'
import type { Served } from './hostile-mirror.ts'
import type { Step } from './tuf-repository.ts'

export interface Loot {
  /** What honest clients have seen last; root and targets take two signatures there. */
  readonly last: Step
  /** Any earlier step. */
  readonly step: (name: string) => Step
  readonly keys: TufKeys
  /** The online key that the newest root trusts. */
  readonly onlineKey: string
  /** A custodian who helps the attacker, another one who does not, and one whose key was replaced. */
  readonly insider: string
  readonly honest: string
  readonly former: string
}

export type Files = Map<string, Served>
type Json = { [key: string]: CanonicalValue }
export interface Signed {
  signed: Json & { _type: Role; version: number }
  signatures: { keyid: string; sig: string }[]
}
type Role = 'root' | 'targets' | 'snapshot' | 'timestamp'

/** The whole of a step, to be changed. */
export function filesOf(step: Step): Files {
  return new Map(step.files)
}

export function read(files: ReadonlyMap<string, Served>, name: string): Signed {
  const bytes = files.get(name)
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${name} is not there`)
  return JSON.parse(Buffer.from(bytes).toString('utf8')) as Signed
}

export function put(files: Files, name: string, metadata: Signed): void {
  files.set(name, Buffer.from(JSON.stringify(metadata)))
}

/** A signature by the key of an agent, under that key's id or under that of another key; or by a key of nobody's. */
export type Hand = { readonly key: string; readonly under?: string } | 'stranger'

const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey

export async function sign({ keys, last }: Loot, signed: Signed['signed'], hands: readonly Hand[]): Promise<Signed> {
  const role = signed._type
  const agent = role === 'root' || role === 'targets' ? keys.custodians : keys.online
  const payload = canonicalJson(signed)
  const signatures: { keyid: string; sig: string }[] = []
  for (const hand of hands) {
    if (hand === 'stranger') {
      signatures.push({ keyid: 'ab'.repeat(32), sig: signWith('sha256', payload, stranger).toString('hex') })
    } else {
      const sig = Buffer.from(await agent.tuf({ key: hand.key, role, payload })).toString('hex')
      signatures.push({ keyid: await keyIdIn(last, agent, hand.under ?? hand.key), sig })
    }
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
  throw new Error(`no root ever named ${name}`)
}

/** The next version of a role; an agent that signed for an earlier attack wants one above that. */
export async function nextVersion(
  agent: TufKeys['online'],
  key: string,
  role: Role,
  published: number,
): Promise<number> {
  return Math.max((await agent.tufVersions({ key }))[role] ?? 0, published) + 1
}

/** A thief of the online key lets snapshot and timestamp name these targets. */
export async function signOnline(loot: Loot, files: Files, targetsVersion: number): Promise<void> {
  const { last, keys, onlineKey } = loot
  const next = async (role: 'snapshot' | 'timestamp') => nextVersion(keys.online, onlineKey, role, last.versions[role])
  const snapshot = read(files, `${last.versions.snapshot}.snapshot.json`).signed
  snapshot.version = await next('snapshot')
  snapshot['meta'] = { ...(snapshot['meta'] as Json), 'targets.json': { version: targetsVersion } }
  put(files, `${snapshot.version}.snapshot.json`, await sign(loot, snapshot, [{ key: onlineKey }]))
  await signTimestamp(loot, files, snapshot.version)
}

export async function signTimestamp(loot: Loot, files: Files, snapshotVersion: number): Promise<void> {
  const { last, keys, onlineKey } = loot
  const timestamp = read(last.files, 'timestamp.json').signed
  timestamp.version = await nextVersion(keys.online, onlineKey, 'timestamp', last.versions.timestamp)
  timestamp['meta'] = { 'snapshot.json': { version: snapshotVersion } }
  put(files, 'timestamp.json', await sign(loot, timestamp, [{ key: onlineKey }]))
}

export const TARGET = 'trusted_root.json'
export const FORGED = Buffer.from(
  '{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[]}',
)

/** Targets of the last step, but with a trusted root of the attacker's own. */
export function forgedTargets({ last }: Loot, files: Files): Signed['signed'] {
  const { signed } = read(files, `${last.versions.targets}.targets.json`)
  const sha256 = createHash('sha256').update(FORGED).digest('hex')
  signed['targets'] = { ...(signed['targets'] as Json), [TARGET]: { length: FORGED.length, hashes: { sha256 } } }
  signed.version = last.versions.targets + 1
  files.set(`targets/${sha256}.${TARGET}`, FORGED)
  return signed
}

/** The next root, in which the replaced custodian alone rules. The same bytes for every attack: agents sign no others. */
export function forgedRoot({ last }: Loot, formerKeyId: string, formerKey: CanonicalValue): Signed['signed'] {
  const { signed } = read(last.files, 'root.json')
  const alone = { keyids: [formerKeyId], threshold: 1 }
  signed['keys'] = { ...(signed['keys'] as Json), [formerKeyId]: formerKey }
  signed['roles'] = { ...(signed['roles'] as Json), root: alone, targets: alone }
  signed.version = last.versions.root + 1
  return signed
}

/** A key as the step's roots name it. */
export async function keyIn(step: Step, agent: TufKeys['online'], name: string): Promise<[string, CanonicalValue]> {
  const keyid = await keyIdIn(step, agent, name)
  for (let version = step.versions.root; version > 0; version -= 1) {
    const key = (read(step.files, `${version}.root.json`).signed['keys'] as Json)[keyid]
    if (key !== undefined) return [keyid, key]
  }
  throw new Error(`no root ever named ${name}`)
}
