/** The keys of a rotation: planned with an id, made, and the former one put away. */
import { randomBytes } from 'node:crypto'
import { OperatorError } from '#alarms'
import type { AdminAgent, KeyRecord } from '#hsm'
import { agentNames } from '../agents.ts'
import { namesOfId } from '../key-references.ts'
import { successorName } from '../log-names.ts'
import { dropKey, editAgentFile, keysIn, reachOf, reload, withSide } from './agent-file.ts'
import { type Facts, type KeySide, known, type PlannedKey, plannedKeys } from './facts.ts'
import type { Installation, Rotation, Step } from './rotation.ts'
import { inventoryOf } from './publication.ts'
import { servingOf, whyByHand } from './serving.ts'

/** The former key where it lies now. Throws `rotation_impossible` where the agent has none of that name. */
export async function recordOf(admin: AdminAgent, name: string): Promise<KeyRecord> {
  const record = (await admin.keyRecords()).find((each) => each.name === name)
  if (record !== undefined) return record
  throw new OperatorError('rotation_impossible', `the agent has no key ${name}; name another agent with --agent`)
}

/** A key like `former`, on the same token (the first, if it lies on several) and of the same kind, with an id that nothing has. */
export async function plannedLike(
  installation: Installation,
  former: string,
  { name, side }: { readonly name: string; readonly side: KeySide },
): Promise<PlannedKey> {
  const planned = await withSide(installation, side, (admin) => planLike(admin, former, { name, side }))
  const { uris = [] } = keysIn(reachOf(installation, side))[former] ?? {}
  const others = uris.map(({ token }) => token).filter((token) => token !== planned.token)
  return others.length === 0 ? planned : { ...planned, formerAlsoOn: others }
}

async function planLike(
  admin: AdminAgent,
  former: string,
  { name, side }: { readonly name: string; readonly side: KeySide },
): Promise<PlannedKey> {
  const { token, kind, idHex: formerId } = await recordOf(admin, former)
  const details = (await admin.tokens()).find((each) => each.name === token)
  const objects = await admin.listObjects(token)
  const backup = objects.some(
    ({ class: of, idHex, attributes }) =>
      of === 'private key' && idHex === formerId && attributes['EXTRACTABLE'] === 'yes',
  )
  const taken = new Set(objects.map(({ idHex }) => idHex))
  return { name, side, token, kind, idHex: freeId(details?.idBytes ?? formerId.length / 2, taken), backup }
}

/** An id of 2 bytes comes twice by chance. */
function freeId(bytes: number, taken: ReadonlySet<string>): string {
  for (;;) {
    const id = randomBytes(bytes).toString('hex')
    if (!taken.has(id)) return id
  }
}

/** The next name after `former` that no key, item or log of this installation ever had. */
export async function nextFreeName(installation: Installation, former: string): Promise<string> {
  const { dataDir, logs } = installation
  const keys = agentNames(dataDir).flatMap((agent) => Object.keys(keysIn({ dataDir, agent })))
  const items = installation.trustRoot === undefined ? [] : (await inventoryOf(installation)).items.map(({ id }) => id)
  const labels =
    whyByHand(installation) === undefined ? await labelsOf(installation) : (await servingOf(installation)).names
  return successorName(former, new Set([...keys, ...items, ...labels, ...logs.map(({ name }) => name)]))
}

/** Of all that lies on the services' tokens, in a configuration or not. */
async function labelsOf(installation: Installation): Promise<string[]> {
  return await withSide(installation, 'services', async (admin) => {
    const tokens = await admin.tokens()
    return (await Promise.all(tokens.map(({ name }) => admin.listObjects(name)))).flat().map(({ label }) => label)
  })
}

/** Makes each planned key that is not made. What lies there under its id was made by a run that did not live to say so. */
export const keyStep: Step = {
  name: 'key',
  run: async (rotation) => {
    for (const { use, planned } of plannedKeys(rotation.facts)) {
      if (planned.made !== undefined) continue
      const made = await withSide(rotation.installation, planned.side, (admin) => make(admin, planned))
      rotation.keep({ keys: { ...rotation.facts.keys, [use]: { ...planned, made } } })
    }
    return undefined
  },
}

async function make(
  admin: AdminAgent,
  { token, name, kind, idHex, backup }: PlannedKey,
): Promise<{ uri: string; spki: string }> {
  await destroyIfThere(admin, { token, idHex })
  const { uri, spkiDer } = await admin.generateKey({ token, label: name, kind, idHex, backup })
  return { uri, spki: Buffer.from(spkiDer).toString('base64') }
}

/** A whole pair or a half; nothing is no fault. */
export async function destroyIfThere(
  admin: AdminAgent,
  { token, idHex }: { readonly token: string; readonly idHex: string },
): Promise<void> {
  const objects = await admin.listObjects(token)
  if (objects.some((object) => object.idHex === idHex)) await admin.destroyKey({ token, idHex })
}

/** Fields of a made key as agent.yaml has them. */
export function entryOf({ made, token, kind, name }: PlannedKey): {
  uri: string
  token: string
  spki: string
  kind: string
} {
  const { uri, spki } = known(made, `key ${name}`)
  return { uri, token, spki, kind }
}

/** SubjectPublicKeyInfo of a made key, DER. */
export function spkiOf(planned: PlannedKey): Uint8Array {
  return new Uint8Array(Buffer.from(entryOf(planned).spki, 'base64'))
}

/** The new key that signs, of whatever the kind is. */
export function signerOf({ keys }: Facts): PlannedKey {
  return known(keys.signer, 'key')
}

/** The former keys leave their agents' configuration; they are destroyed where that was asked for, and recorded either way. */
export const retireStep: Step = {
  name: 'retire',
  run: async (rotation) => {
    for (const { name, side } of rotation.facts.former.keys) await putAway(rotation, name, side)
    return undefined
  },
}

async function putAway(rotation: Rotation, name: string, side: KeySide): Promise<void> {
  const { installation, facts, keep } = rotation
  const note = (place: NonNullable<Facts['retired']>[string]) =>
    keep({ retired: { ...rotation.facts.retired, [name]: place } })
  await withSide(installation, side, async (admin) => {
    const record = (await admin.keyRecords()).find((each) => each.name === name)
    // Noted before the configuration forgets it: after a kill its id would be known to nobody.
    const place = facts.retired?.[name] ?? (record && { idHex: record.idHex, token: record.token, destroyed: false })
    if (place === undefined) return
    note(place)
    editAgentFile(reachOf(installation, side), (document) => dropKey(document, name))
    await reload(admin, [])
    if (!facts.destroyOldKey) return
    const [named] = namesOfId(installation.dataDir, place.idHex)
    if (named !== undefined) {
      throw new OperatorError('key_configured', `${named.file} names the former key as ${named.key}; take it out first`)
    }
    await destroyIfThere(admin, place)
    note({ ...place, destroyed: true })
  })
}
