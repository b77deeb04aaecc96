/** A rotation goes back: whatever clients, agents and tokens have of it is taken away. Each part may be done again. */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { PendingSummary } from '#trust-root'
import { encodePem } from '#x509'
import { onAgentFiles } from '../agents.ts'
import { dropKey, editAgentFile, keysIn, reachOf, reload, withSide } from './agent-file.ts'
import { certificateBeside, certificateFile, chainIn, chainOfFile } from './certificates.ts'
import { type Facts, type KeySide, known, plannedKeys } from './facts.ts'
import { issuingCaOf } from './issuing-ca.ts'
import { destroyIfThere } from './keys.ts'
import { change, inventoryOf } from './publication.ts'
import type { Pause, Rotation } from './rotation.ts'
import { authorityFiles, memberRotation } from './standby-member.ts'

export interface UndoOptions {
  /** The new keys stay on their tokens, in no configuration. */
  readonly keepKeys: boolean
  readonly onStep: (step: string) => void
}

/** Withdraws, forgets, destroys; a withdrawal may have to wait for custodians. */
export async function undo(rotation: Rotation, options: UndoOptions): Promise<Pause | undefined> {
  const { keepKeys, onStep } = options
  const { standby, item: one } = rotation.facts
  if (standby !== undefined && one === undefined) {
    // Each member goes back as if it were a rotation of its own.
    for (const { item } of standby.members) {
      const pause = await undo(memberRotation(rotation, item), options)
      if (pause !== undefined) return pause
    }
    return undefined
  }
  onStep('withdraw')
  const pause = await withdraw(rotation)
  if (pause !== undefined) return pause
  onStep('forget')
  for (const side of ['services', 'root'] as const) await forget(rotation, side)
  await refuseRoot(rotation)
  removeFiles(rotation)
  if (keepKeys) return undefined
  onStep('destroy')
  for (const { planned } of plannedKeys(rotation.facts)) {
    const { side, token, idHex } = planned
    await withSide(rotation.installation, side, (admin) => destroyIfThere(admin, { token, idHex }))
  }
  return undefined
}

const pendingAnswer = z.object({ pending: z.custom<PendingSummary>().optional() })

/** What clients have seen is revoked: it has signed nothing. What waits for signatures goes away unsigned. */
async function withdraw(rotation: Rotation): Promise<Pause | undefined> {
  const { installation, facts } = rotation
  if (facts.item === undefined || installation.trustRoot === undefined) return undefined
  if (facts.withdrawing !== true && facts.pendingId !== undefined) {
    const { pending } = pendingAnswer.parse(await installation.ask('trust-pending', {}))
    if (pending?.id === facts.pendingId) await installation.ask('trust-withdraw', {})
  }
  const { items } = await inventoryOf(installation)
  const item = items.find(({ id }) => id === facts.item)
  if (item === undefined) return undefined
  rotation.keep({ withdrawing: true })
  return await change(rotation, [{ op: 'set', id: item.id, state: 'revoked' }])
}

/** Agents' configurations are as they were. */
async function forget({ installation, facts }: Rotation, side: KeySide): Promise<void> {
  const names = plannedKeys(facts).flatMap(({ planned }) => (planned.side === side ? [planned.name] : []))
  if (names.length === 0) return
  const reach = reachOf(installation, side)
  editAgentFile(reach, (document) => {
    for (const [name, { ctKey }] of Object.entries(keysIn(reach))) {
      const logs = [ctKey ?? []].flat()
      const left = logs.filter((log) => !names.includes(log))
      if (left.length === logs.length) continue
      document.setIn(['keys', name, 'ctKey'], left.length === 1 ? left[0] : document.createNode(left))
    }
    for (const name of names) dropKey(document, name)
  })
  await withSide(installation, side, (admin) => reload(admin, []))
}

/** CT logs take no certificates any more below a root that was to come. */
async function refuseRoot({ kind, installation, facts }: Rotation): Promise<void> {
  if (kind !== 'root-ca' || facts.chain === undefined) return
  const root = known(chainIn(facts.chain).at(-1), 'root')
  // One that was asked for from an offline machine may have come below the root that is there.
  const former = known(chainOfFile(issuingCaOf(installation).chain).at(-1), 'root')
  if (Buffer.compare(root, former) !== 0) await installation.ask('ct-roots', { remove: encodePem('CERTIFICATE', root) })
}

/** Certificate and chain of what was to stand by. */
function memberFiles({ standby, item }: Facts): string[] {
  const member = standby?.members.find((each) => each.item === item)
  if (member?.certificate === undefined) return []
  const { certificate, chain } = authorityFiles(member)
  return [certificate, chain]
}

/** Of this rotation's own making, and of no use to anybody. */
function removeFiles({ installation, facts }: Rotation): void {
  const files = [...plannedKeys(facts).map(({ planned }) => certificateFile(planned.name)), ...memberFiles(facts)]
  for (const file of [...files, ...(facts.requestFile === undefined ? [] : [facts.requestFile])]) {
    const path = join(installation.dataDir, file)
    if (existsSync(path)) rmSync(path)
  }
  for (const { planned } of plannedKeys(facts)) {
    const copy = planned.side === 'services' ? certificateBeside(installation, planned.name) : undefined
    if (copy !== undefined) onAgentFiles(installation.agent, () => rmSync(copy, { force: true }))
  }
}
