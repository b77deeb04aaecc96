/**
 * Has the agent sign where its account of key uses ends, shows that to the anchors of kind `file`, and keeps a copy. An
 * account that is shorter than what was signed of it once, or other, was rolled back.
 */
import { createPublicKey } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { type AccountHead, HsmError, type SigningAgent } from '#hsm'
import { verifyCheckpoint } from '#tlog'
import { AnchorError, anchorFile } from '#transparency-log'
import type { Parts } from './main.ts'

/** Signs and shows the head now, then regularly, and once more when it is stopped. */
export async function watchAccountHead(
  parts: Pick<Parts, 'loaded' | 'agent' | 'alarms' | 'anchors'>,
  logger: Logger,
): Promise<() => Promise<void>> {
  const { key, headMinutes } = parts.loaded.config.account
  const { agent } = parts.loaded.config
  if (key === undefined || ('sockets' in agent && agent.sockets.audit === undefined)) return async () => undefined
  let last: Promise<void> = Promise.resolve()
  const submit = async () => {
    last = last.then(async () => {
      try {
        await submitHead(parts, key, logger)
      } catch (error) {
        logger.warn({ err: error }, 'the head of the account was not signed; tried again')
      }
    })
    await last
  }
  await submit()
  const timer = setInterval(() => void submit(), headMinutes * 60_000).unref()
  return async () => {
    clearInterval(timer)
    await submit()
  }
}

async function submitHead(
  { loaded, agent, alarms, anchors }: Pick<Parts, 'loaded' | 'agent' | 'alarms' | 'anchors'>,
  key: string,
  logger: Logger,
): Promise<void> {
  const { spkiDer } = await agent.key(key).catch((error: unknown) => {
    if (error instanceof HsmError && error.code === 'unknown_key') {
      throw new Error(`the agent has no key ${key}: make one with purpose accountHead (docs/runbook.md)`, {
        cause: error,
      })
    }
    throw error
  })
  const own = loaded.resolve('anchors/account')
  const head = await agent.accountHead({ key })
  const { origin, size, rootHash, note } = head
  const verify = (text: string) => verifyCheckpoint(text, { origin, spkiDer })
  const found: string[] = []
  const held = readHeld(own, head, verify)
  const fault = held === undefined ? undefined : await notBelow(agent, held, head)
  if (fault !== undefined) found.push(fault)
  for (const anchor of anchors.anchors.filter(({ kind }) => kind === 'file')) {
    try {
      await anchor.submit({ origin, size, rootHash, note, verify })
    } catch (error) {
      if (!(error instanceof AnchorError)) throw error
      if (error.code === 'ahead' || error.code === 'disagrees') found.push(`anchor ${anchor.name}: ${error.message}`)
      else logger.warn({ anchor: anchor.name, err: error }, 'an anchor did not take the head of the account')
    }
  }
  alarms.set('account_rolled_back', 'account', found.length === 0 ? undefined : found.join('; '))
  // What remembers more is not written over.
  if (found.length === 0) keep(own, origin, note, spkiDer)
}

function readHeld(
  folder: string,
  { origin }: AccountHead,
  verify: (note: string) => { readonly size: number; readonly rootHash: Uint8Array },
): { readonly size: number; readonly rootHash: Uint8Array } | undefined {
  let note: string
  try {
    note = readFileSync(anchorFile(folder, origin), 'utf8')
  } catch {
    return undefined
  }
  return verify(note)
}

/** What is wrong with the account, if the head that was signed before does not lie on it. */
async function notBelow(
  agent: Pick<SigningAgent, 'account'>,
  held: { readonly size: number; readonly rootHash: Uint8Array },
  now: AccountHead,
): Promise<string | undefined> {
  if (held.size === 0) return undefined
  if (now.size < held.size) return `line ${held.size} was signed once, and the account ends at ${now.size}`
  const [line] = await agent.account({ from: held.size, limit: 1 })
  const same = line !== undefined && Buffer.from(line.hash).equals(held.rootHash)
  return same ? undefined : `line ${held.size} is not the one that was signed once`
}

function keep(folder: string, origin: string, note: string, spkiDer: Uint8Array): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const path = anchorFile(folder, origin)
  writeFileSync(`${path}.part`, note, { flush: true })
  renameSync(`${path}.part`, path)
  const pem = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' }).export({
    type: 'spki',
    format: 'pem',
  })
  writeFileSync(join(folder, 'account.pub'), pem)
}
