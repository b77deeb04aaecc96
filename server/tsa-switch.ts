/**
 * The timestamp authority goes over to another key and chain while it signs: one timestamp of our own is made and read
 * back first. What began before is signed by the former key; the chain that clients are told follows at once.
 */
import { hash } from 'node:crypto'
import { OperatorError } from '#alarms'
import type { AdminRequest } from './admin.ts'
import type { Parts } from './main.ts'
import { goOver } from './signer-changeover.ts'
import { certificatesIn, sameCertificates, signerArgument, type SignerSwitched, trying } from './signer-files.ts'
import { requireTrusted } from './trusted-signer.ts'

/** May be asked again. When it resolves nothing is under way with the former key any more. */
export async function tsaSwitchVerb(parts: Parts, { argument }: AdminRequest): Promise<SignerSwitched> {
  const { key, chain: pem } = signerArgument.parse(argument)
  const chain = certificatesIn(pem)
  const { loaded, timestamp: authority } = parts
  const { timestamp } = loaded.config
  if (timestamp === undefined || authority === undefined) {
    throw new OperatorError('switch_refused', 'no timestamp authority runs here')
  }
  const former = timestamp.key
  if (former === key && sameCertificates(chain, authority.chain)) {
    return { key, former, already: true, chainFile: timestamp.chain }
  }
  await requireTrusted(loaded, 'timestamp-authority', chain)
  const changeover = await trying(
    `the timestamp authority cannot sign with ${key}`,
    async () => await authority.prepare({ key, chain }),
  )
  const trial = { hash: 'sha256', digest: hash('sha256', 'trial', 'buffer'), certReq: true } as const
  await trying(`a trial timestamp of ${key} was not made`, async () => await changeover.timestamp(trial))

  const chainFile = await goOver(parts, 'timestamp', { key, chain, changeover })
  return { key, former, already: false, chainFile }
}
