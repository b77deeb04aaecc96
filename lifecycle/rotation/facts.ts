/** What a rotation knows and has made, as the journal keeps it: enough to do or undo every step again. */
import { z } from 'zod'
import { KEY_KINDS } from '#hsm'
import { STANDBY_KINDS } from '../standby-plan.ts'

/** Which agent opens the token of a key: that of the services, or that of the root token. */
export type KeySide = 'services' | 'root'

const time = z.iso.datetime()

/** A key whose id is fixed before it is made: what is found under it on the token is ours. */
const plannedKey = z.strictObject({
  /** In the agent's configuration, and its label on the token. */
  name: z.string(),
  side: z.enum(['services', 'root']),
  token: z.string(),
  kind: z.enum(KEY_KINDS),
  /** CKA_ID, hex. */
  idHex: z.string(),
  /** May be wrapped for a backup, as the key before it. */
  backup: z.boolean(),
  /** Other tokens that the key before it lies on: this one gets there only if somebody copies it. */
  formerAlsoOn: z.array(z.string()).optional(),
  made: z.strictObject({ uri: z.string(), spki: z.base64() }).optional(),
})
export type PlannedKey = z.infer<typeof plannedKey>

/** The shard that begins. */
const shard = z.strictObject({
  name: z.string(),
  origin: z.string(),
  treeId: z.string().optional(),
  listen: z.string(),
  url: z.string(),
  database: z.string(),
})

/** The certificate of a new key. */
const certificate = z.strictObject({
  profile: z.enum(['issuing', 'timestamp']),
  organization: z.string(),
  commonName: z.string(),
  /** Name in the root token's agent of the key that signs it; none where an offline machine does. */
  issuerKey: z.string().optional(),
  /** Roots that it may be below, PEM; none where a new root is made. */
  roots: z.string().optional(),
  /** Of a new root. */
  rootName: z.string().optional(),
})

/** What is made to stand by: one member a kind, each as if it were a rotation of its own. */
const standby = z.strictObject({
  /** Configuration of the agent that opens their token. */
  agent: z.string(),
  members: z.array(
    z.strictObject({
      kind: z.enum(STANDBY_KINDS),
      /** Of the key, the item in the trust root and the files. */
      item: z.string(),
      url: z.string(),
      keys: z.strictObject({ signer: plannedKey, witness: plannedKey.optional() }),
      shard: shard.optional(),
      certificate: certificate.optional(),
      chain: z.string().optional(),
      requestFile: z.string().optional(),
    }),
  ),
  /** Items of authorities below a former root, which are withdrawn. */
  stale: z.array(z.string()),
  /** The trust root knows already what an emergency brought into service. */
  settled: z.boolean(),
})
export type StandbyFacts = z.infer<typeof standby>

export const factsSchema = z.strictObject({
  destroyOldKey: z.boolean(),
  /** What ends: the key's name with its agent, the item of the trust root, and the fields of a log. */
  former: z.strictObject({
    /** The first is the one that the new key takes over from. */
    keys: z.array(z.strictObject({ name: z.string(), side: z.enum(['services', 'root']) })),
    item: z.string().optional(),
    /** Of TUF root and targets: the custodian whose key it was, and the key's id in the metadata. */
    custodian: z.string().optional(),
    keyid: z.string().optional(),
    log: z.looseObject({ name: z.string() }).optional(),
  }),
  /** What begins: item of the trust root, and keys by what they are for. */
  item: z.string().optional(),
  start: time,
  keys: z.strictObject({
    signer: plannedKey.optional(),
    witness: plannedKey.optional(),
    root: plannedKey.optional(),
  }),
  shard: shard.optional(),
  /** A new custodian's key of root and targets that was made elsewhere; PEM, or the entry of its custodian. */
  publicKey: z.string().optional(),
  nextCustodian: z.string().optional(),
  standby: standby.optional(),
  certificate: certificate.optional(),
  /** PEM of a new root. */
  root: z.string().optional(),
  /** PEM, the certificate of the new key first, the root last. */
  chain: z.string().optional(),
  /** File with the request for an offline machine. */
  requestFile: z.string().optional(),
  /** Clients may see the new item from `at`; a timestamp from before it was good until `timestampExpires`. */
  published: z.strictObject({ at: time, timestampExpires: time }).optional(),
  /** Of the publication that waits for custodians, or did. */
  pendingId: z.string().optional(),
  waitUntil: time.optional(),
  shortened: z.strictObject({ at: time, by: z.string(), insteadOf: time }).optional(),
  switchedAt: time.optional(),
  /** What the switch found of a log that ended. */
  formerSize: z.int().optional(),
  /** Whether its last head was signed as such. */
  formerFrozen: z.boolean().optional(),
  provedAt: time.optional(),
  formerEnd: time.optional(),
  /** TUF versions after the last publication. */
  versions: z.record(z.string(), z.int()).optional(),
  /** The new item is being withdrawn: what waits for signatures from now on is that. */
  withdrawing: z.boolean().optional(),
  /** Keys that left an agent's configuration, by their names in it. */
  retired: z
    .record(z.string(), z.strictObject({ idHex: z.string(), token: z.string(), destroyed: z.boolean() }))
    .optional(),
})
export type Facts = z.infer<typeof factsSchema>

/** A fact that an earlier step must have left. Throws `TypeError`: the order of the steps is wrong, nothing else. */
export function known<T>(fact: T | undefined, name: string): T {
  if (fact === undefined) throw new TypeError(`the journal has no ${name}`)
  return fact
}

/** The key that the new one takes over from. */
export function formerKey({ former }: Facts): { readonly name: string; readonly side: KeySide } {
  return known(former.keys[0], 'former key')
}

/** The keys of a rotation with what each is for. */
export function plannedKeys({ keys }: Facts): { readonly use: keyof Facts['keys']; readonly planned: PlannedKey }[] {
  return (['root', 'signer', 'witness'] as const).flatMap((use) => {
    const planned = keys[use]
    return planned === undefined ? [] : [{ use, planned }]
  })
}
