/**
 * The CA goes over to another key and chain while it issues. Checked first, with one certificate of our own that goes the
 * whole way through agent and log; then durable; then in force for every request that begins. Whatever began before gets
 * its certificate under the former chain.
 */
import { generateKeyPairSync } from 'node:crypto'
import type { AuthorityChangeover } from '#ca'
import { OperatorError } from '#alarms'
import { parseSpki } from '#x509'
import type { AdminRequest } from './admin.ts'
import type { Parts } from './main.ts'
import { goOver } from './signer-changeover.ts'
import { certificatesIn, sameCertificates, signerArgument, type SignerSwitched, trying } from './signer-files.ts'
import { requireTrusted } from './trusted-signer.ts'

/** May be asked again. When it resolves nothing is under way with the former key any more. */
export async function caSwitchVerb(parts: Parts, { argument }: AdminRequest): Promise<SignerSwitched> {
  const { key, chain: pem, emergency } = signerArgument.parse(argument)
  const chain = certificatesIn(pem)
  const { loaded, authority } = parts
  const { ca } = loaded.config
  if (ca === undefined || authority === undefined) throw new OperatorError('switch_refused', 'no CA runs here')
  const former = ca.key
  if (former === key && sameCertificates(chain, authority.chain)) {
    return { key, former, already: true, chainFile: ca.chain }
  }
  await requireTrusted(loaded, 'certificate-authority', chain)
  requireAccepted(parts, ca.ctLog, chain)
  const changeover = await trying(`the CA cannot sign with ${key}`, async () => await authority.prepare({ key, chain }))
  // It goes through the CT log, whose emergency may be the next one; that proves both.
  if (!emergency) await trying(`a trial certificate of ${key} was not issued`, async () => await issueTrial(changeover))

  const chainFile = await goOver(parts, 'ca', { key, chain, changeover })
  return { key, former, already: false, chainFile }
}

/** Checked here because the log would refuse every certificate, each one as a fault of its own. */
function requireAccepted({ logs, acceptedRoots }: Parts, ctLog: string, chain: readonly Uint8Array[]): void {
  const log = logs.find(({ config }) => config.name === ctLog)
  if (log?.config.kind !== 'ct' || acceptedRoots.of(log.config).accepts(chain)) return
  throw new OperatorError(
    'switch_root_unaccepted',
    `the CT log ${ctLog} does not accept the root of this chain: add it first (ct-roots)`,
  )
}

export async function issueTrial(changeover: Pick<AuthorityChangeover, 'issueCanary'>): Promise<void> {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  await changeover.issueCanary(parseSpki(publicKey.export({ type: 'spki', format: 'der' })))
}
