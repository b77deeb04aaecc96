/** What the rotations of TUF keys share: who signs what, as published and as asked for. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import {
  type CustodianKey,
  keyIdOf,
  type Publication,
  type Roles,
  servedFolder,
  tufKeyOf,
  type TufKey,
} from '#trust-root'
import { parsePublicKeyPem, X509Error } from '#x509'
import { editAgentFile, keyIn, keysIn, putKey, reachOf, reload, withSide } from './agent-file.ts'
import { type Facts, formerKey, known } from './facts.ts'
import { entryOf, signerOf, spkiOf } from './keys.ts'
import { told } from './publication.ts'
import type { Installation, Pause, Rotation, Step } from './rotation.ts'

const role = z.object({ keyids: z.array(z.string()), threshold: z.int() })
const signatures = z.array(z.object({ keyid: z.string() }))
const rootMetadata = z.object({
  signed: z.object({
    version: z.int(),
    keys: z.record(z.string(), z.custom<TufKey>()),
    roles: z.object({ root: role, targets: role, snapshot: role, timestamp: role }),
  }),
  signatures,
})
const signedMetadata = z.object({ signatures })

/** The root that clients see, and who signed root, targets and timestamp. */
export interface ServedTuf {
  readonly root: z.infer<typeof rootMetadata>['signed']
  readonly signedBy: Readonly<Record<'root' | 'targets' | 'timestamp', readonly string[]>>
}

/** Reads the repository that is served. Throws `rotation_impossible` where nothing is published from here. */
export function servedTuf({ trustRoot }: Pick<Installation, 'trustRoot'>): ServedTuf {
  if (trustRoot === undefined) {
    throw new OperatorError('rotation_impossible', 'this installation has no trustRoot in its configuration')
  }
  const served = servedFolder(trustRoot.folder)
  const read = (name: string): unknown => JSON.parse(readFileSync(join(served, name), 'utf8'))
  const { signed, signatures: ofRoot } = rootMetadata.parse(read('root.json'))
  const ids = (found: z.infer<typeof signatures>) => found.map(({ keyid }) => keyid)
  const timestamp = z
    .object({ signed: z.object({ meta: z.record(z.string(), z.object({ version: z.int() })) }) })
    .and(signedMetadata)
    .parse(read('timestamp.json'))
  const snapshot = z
    .object({ signed: z.object({ meta: z.record(z.string(), z.object({ version: z.int() })) }) })
    .parse(read(`${timestamp.signed.meta['snapshot.json']?.version}.snapshot.json`))
  const targets = signedMetadata.parse(read(`${snapshot.signed.meta['targets.json']?.version}.targets.json`))
  return {
    root: signed,
    signedBy: { root: ids(ofRoot), targets: ids(targets.signatures), timestamp: ids(timestamp.signatures) },
  }
}

const rolesAnswer = z.object({ roles: z.custom<Roles>().optional() })

/** Who signs, as roles.json has it; without one, as the published root has it, by the configured names. */
export async function rolesOf(installation: Installation): Promise<Roles> {
  const { roles } = rolesAnswer.parse(await installation.ask('trust-roles', {}))
  if (roles !== undefined) return roles
  const { root } = servedTuf(installation)
  const names = new Map(root.roles.root.keyids.map((keyid, at) => [keyid, nameOf(installation, at)]))
  const custodians = [...names].map(([keyid, name]): CustodianKey => {
    return { name, holder: '', key: known(root.keys[keyid], `key ${keyid} of the root`) }
  })
  const offline = (found: z.infer<typeof role>) => ({
    threshold: found.threshold,
    custodians: found.keyids.flatMap((keyid) => names.get(keyid) ?? []),
  })
  return { custodians, root: offline(root.roles.root), targets: offline(root.roles.targets) }
}

function nameOf({ trustRoot }: Installation, at: number): string {
  const name = known(trustRoot, 'trust root').rootKey
  return at === 0 ? name : `${name}-of-${at + 1}`
}

/** Asks the server to publish with these roles; where custodians have to sign, says so. */
export async function assign(rotation: Rotation, roles: Roles): Promise<Pause | undefined> {
  const answer = await rotation.installation.ask('trust-roles', { roles: { schemaVersion: 1, ...roles } })
  return told(rotation, answer as Publication) // our own server answers
}

/** The next key as TUF metadata has it: made here, or by its custodian. */
export function nextTufKey(facts: Facts): TufKey {
  if (facts.publicKey !== undefined) return tufKeyFrom(facts.publicKey).key
  const { kind } = signerOf(facts)
  return tufKeyOf({ kind: tufKind(kind), spkiDer: spkiOf(signerOf(facts)) })
}

/** As `chancery trust custodian` prints it. */
const custodianEntry = z.object({
  name: z.string(),
  key: z.object({ keytype: z.string(), scheme: z.string(), keyval: z.object({ public: z.string() }) }),
})

/** A key that was made elsewhere, in PEM or in the entry of its custodian, which names it. Throws `rotation_impossible`. */
export function tufKeyFrom(text: string): { readonly name?: string; readonly key: TufKey } {
  try {
    if (text.trimStart().startsWith('{')) {
      const { name, key } = custodianEntry.parse(JSON.parse(text))
      // The roles that it goes into are checked strictly.
      return { name, key: key as TufKey }
    }
    const key = parsePublicKeyPem(text)
    const kind = tufKind(key.kind === 'ecdsa' ? key.curve : key.kind)
    return { key: tufKeyOf({ kind, spkiDer: key.spkiDer }) }
  } catch (error) {
    if (error instanceof OperatorError) throw error
    const said = error instanceof X509Error ? error.message : 'it is no PEM, and no entry of a custodian'
    throw new OperatorError('rotation_impossible', `the public key cannot be read: ${said}`, { cause: error })
  }
}

/** Every TUF client verifies these two. Throws `rotation_impossible`. */
export function tufKind(kind: string): 'P-256' | 'ed25519' {
  if (kind === 'P-256' || kind === 'ed25519') return kind
  throw new OperatorError('rotation_impossible', `TUF keys are P-256 or Ed25519, not ${kind}`)
}

/** The new key beside the former one, with its TUF roles, in the agent of its side. */
export const tufAgentStep: Step = {
  name: 'agent',
  run: async ({ installation, facts }) => {
    if (facts.publicKey !== undefined) return undefined
    const former = formerKey(facts)
    const signer = signerOf(facts)
    const reach = reachOf(installation, former.side)
    const { tufRoles, tufMaxValidityDays } = keyIn(reach, former.name)
    const limits = tufMaxValidityDays === undefined ? {} : { tufMaxValidityDays }
    editAgentFile(reach, (document) =>
      putKey(document, signer.name, { ...entryOf(signer), purposes: ['tuf'], tufRoles, ...limits }, former.name),
    )
    await withSide(installation, former.side, (admin) => reload(admin, [signer.name]))
    return undefined
  },
}

/** Whether an agent's configuration has a key of this name. */
export function hasKey(installation: Installation, side: 'services' | 'root', name: string): boolean {
  if (side === 'root' && installation.rootAgent === undefined) return false
  return keysIn(reachOf(installation, side))[name] !== undefined
}

/** Whether the root that clients see names the new key. */
export function isInServedRoot({ installation, facts }: Pick<Rotation, 'installation' | 'facts'>): boolean {
  const key = facts.publicKey !== undefined || facts.keys.signer?.made !== undefined ? nextTufKey(facts) : undefined
  return key !== undefined && servedTuf(installation).root.keys[keyIdOf(key)] !== undefined
}

/** What is wrong with the served repository after the change, or undefined. */
export type TufProof = (
  served: ServedTuf,
  keyids: { readonly next: string; readonly former: string },
) => string | undefined

/** The served repository is signed as it must be; then an old and a new signature verify as with every rotation. */
export function tufProveStep(proof: TufProof, then: Step): Step {
  return {
    name: 'prove',
    run: async (rotation) => {
      const { installation, facts } = rotation
      const keyids = { next: keyIdOf(nextTufKey(facts)), former: known(facts.former.keyid, 'former key id') }
      const fault = proof(servedTuf(installation), keyids)
      if (fault !== undefined) throw new OperatorError('rotation_unproven', fault)
      return await then.run(rotation)
    },
  }
}
