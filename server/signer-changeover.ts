/** What the CA and the timestamp authority have in common once the new key has been tried: durable first, then in force. */
import { OperatorError } from '#alarms'
import { plannedConfiguration } from './configuration-change.ts'
import type { Parts } from './main.ts'
import { writeChain } from './signer-files.ts'
import { passing } from './switch-points.ts'

export interface NextSigner {
  /** Name of the agent's key. */
  readonly key: string
  /** DER, signer first, root last. */
  readonly chain: readonly Uint8Array[]
  /** `take` puts it in force at once; what it returns resolves when nothing is under way with the former key. */
  readonly changeover: { take(): Promise<void> }
}

/** Resolves with the file of the new chain, when nothing is under way with the former key any more. */
export async function goOver(
  parts: Parts,
  section: 'ca' | 'timestamp',
  { key, chain, changeover }: NextSigner,
): Promise<string> {
  const { loaded } = parts
  const running = loaded.config[section]
  if (running === undefined) throw new OperatorError('switch_refused', `no ${section} runs here`)
  const chainFile = writeChain(loaded, running.chain, { name: key, certificates: chain })
  passing('files-written', loaded.config)
  const { write } = await plannedConfiguration(parts, (document) => {
    document.setIn([section, 'key'], key)
    document.setIn([section, 'chain'], chainFile)
  })
  write()
  passing('configured', loaded.config)
  const drained = changeover.take()
  Object.assign(running, { key, chain: chainFile })
  passing('in-force', loaded.config)
  await drained
  return chainFile
}
