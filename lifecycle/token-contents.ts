/** What lies on a token, judged against the configuration: pure. The commands of keys and the doctor read it. */
import { hash } from 'node:crypto'
import type { KeyRecord, ObjectAttribute, TokenObject } from '#hsm'

/** What an object is to us. */
export type Verdict =
  /** Half of a key of the configuration. */
  | 'configured'
  /** Half of a whole key pair that no configuration names. */
  | 'spare'
  /** A private key without its public one, or the other way round: a generation or a restore was interrupted. */
  | 'half pair'
  /** Has another object of its class with its id. */
  | 'duplicate'
  /** The trusted key-encryption key of backups. */
  | 'key-encryption key'
  /** What a key-encryption key travels under, between `kek request` and `kek accept`. */
  | 'transport key'
  /** A secret key that nobody here made: with it keys could be wrapped. */
  | 'unknown secret key'
  /** Neither id nor label: left by a generation that was killed. */
  | 'nameless'
  /** A certificate, data, or what this program does not know. */
  | 'foreign'

export interface JudgedObject {
  readonly object: TokenObject
  readonly verdict: Verdict
  /** Name of the configured key that it is half of, or undefined. */
  readonly key: string | undefined
}

/** What `key ls --orphans` and the doctor show. */
export const ORPHANS: readonly Verdict[] = ['half pair', 'duplicate', 'unknown secret key', 'nameless', 'foreign']

/** Each object of one token with what it is; `records` are the configured keys of every agent that opens it. */
export function judgeObjects(
  token: string,
  objects: readonly TokenObject[],
  records: readonly Pick<KeyRecord, 'name' | 'token' | 'idHex'>[],
): JudgedObject[] {
  const count = (of: TokenObject['class'], idHex: string) =>
    objects.filter((object) => object.class === of && object.idHex === idHex).length
  return objects.map((object) => {
    const { idHex } = object
    const key = records.find((record) => record.token === token && idHex !== '' && record.idHex === idHex)?.name
    return { object, key, verdict: verdictOf(object, key, count) }
  })
}

function verdictOf(
  { class: of, idHex, label, attributes }: TokenObject,
  key: string | undefined,
  count: (of: TokenObject['class'], idHex: string) => number,
): Verdict {
  if (of === 'secret key') {
    return label === 'chancery-kek' && attributes['TRUSTED'] === 'yes' ? 'key-encryption key' : 'unknown secret key'
  }
  if (of !== 'private key' && of !== 'public key') return 'foreign'
  if (label === 'chancery-kek-transport') return 'transport key'
  if (idHex === '') return label === '' ? 'nameless' : 'half pair'
  if (count(of, idHex) > 1) return 'duplicate'
  if (key !== undefined) return 'configured'
  return count(of === 'private key' ? 'public key' : 'private key', idHex) === 1 ? 'spare' : 'half pair'
}

export interface AttributeFinding {
  readonly name: string
  readonly found: ObjectAttribute
  readonly wanted: 'yes' | 'no'
  /** `hard`: a key that is otherwise is not used; `soft`: wanted, and recorded where the token does otherwise. */
  readonly rule: 'hard' | 'soft'
  readonly verdict: 'as wanted' | 'unproven' | 'VIOLATED'
}

/** The attributes of a private key against the policy for it; `backup`: it was made so that it can be wrapped. */
export function judgeAttributes({ attributes }: TokenObject): {
  readonly backup: boolean
  readonly findings: readonly AttributeFinding[]
} {
  const backup = attributes['EXTRACTABLE'] === 'yes'
  const policy: readonly (readonly [string, 'yes' | 'no', 'hard' | 'soft'])[] = [
    ['PRIVATE', 'yes', 'hard'],
    ['SENSITIVE', 'yes', 'hard'],
    ['SIGN', 'yes', 'hard'],
    ...(backup
      ? ([['WRAP_WITH_TRUSTED', 'yes', 'hard']] as const)
      : ([
          ['EXTRACTABLE', 'no', 'hard'],
          ['NEVER_EXTRACTABLE', 'yes', 'soft'],
        ] as const)),
    ['ALWAYS_SENSITIVE', 'yes', 'soft'],
    ['LOCAL', 'yes', 'soft'],
    ['DECRYPT', 'no', 'soft'],
    ['UNWRAP', 'no', 'soft'],
    ['DERIVE', 'no', 'soft'],
    ['SIGN_RECOVER', 'no', 'soft'],
  ]
  const findings = policy.map(([name, wanted, rule]): AttributeFinding => {
    const found = attributes[name] ?? 'unknown'
    const verdict = found === wanted ? 'as wanted' : rule === 'hard' && found !== 'unknown' ? 'VIOLATED' : 'unproven'
    return { name, found, wanted, rule, verdict }
  })
  return { backup, findings }
}

/** SHA-256 of a SubjectPublicKeyInfo, hex; empty for none. */
export function spkiSha256(spkiDer: Uint8Array): string {
  return spkiDer.length === 0 ? '' : hash('sha256', spkiDer)
}
