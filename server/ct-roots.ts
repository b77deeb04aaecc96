/** Other roots for the CT logs, before a CA under another root issues: read without a restart, and by the next one too. */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { parseCertificate, verifyCertificateSignature } from '#x509'
import type { AdminRequest } from './admin.ts'
import { readCertificates } from './config.ts'
import { plannedConfiguration } from './configuration-change.ts'
import type { Parts } from './main.ts'
import { certificatesIn, sameCertificates, trying, writeChain } from './signer-files.ts'
import { passing } from './switch-points.ts'

const argumentSchema = z.union([
  z.strictObject({ add: z.string().min(1) }),
  z.strictObject({ remove: z.string().min(1) }),
])

export interface RootsChanged {
  /** Those of the logs that did not have exactly these before. */
  readonly logs: readonly string[]
}

/**
 * Adds certificates (`add`, PEM) to what every CT log here accepts, or takes them away (`remove`): what a rotation that is
 * undone had added, and no CA here issues under. May be asked again.
 */
export async function ctRootsVerb(parts: Parts, { argument }: AdminRequest): Promise<RootsChanged> {
  const asked = argumentSchema.parse(argument)
  const roots = certificatesIn('add' in asked ? asked.add : asked.remove)
  await trying('a certificate cannot be read', async () => roots.forEach(requireRoot))
  const among = (some: readonly Uint8Array[], one: Uint8Array) => some.some((other) => sameCertificates([one], [other]))
  const { loaded, logs, acceptedRoots, authority } = parts
  if ('remove' in asked && authority?.chain.some((der) => among(roots, der)) === true) {
    throw new OperatorError('switch_refused', 'the CA issues under this root: its CT log has to accept it')
  }
  const changed = logs.flatMap(({ config }) => {
    if (config.kind !== 'ct') return []
    const known = readCertificates(loaded, config.roots)
    const all =
      'add' in asked
        ? [...known, ...roots.filter((root) => !among(known, root))]
        : known.filter((root) => !among(roots, root))
    if (all.length === 0) throw new OperatorError('switch_refused', `${config.name} would accept no root any more`)
    return all.length === known.length ? [] : [{ config, all }]
  })
  if (changed.length === 0) return { logs: [] }
  const files = changed.map(({ config, all }) => ({
    config,
    all,
    // A file of its own: the former one may be another part's too.
    file: writeChain(loaded, config.roots, { name: 'ct-roots', certificates: all }),
  }))
  passing('files-written', loaded.config)
  const { write } = await plannedConfiguration(parts, (document) => {
    const configured = (document.toJS() as { logs: { name: string }[] }).logs // it was read at the start
    for (const { config, file } of files) {
      document.setIn(['logs', configured.findIndex(({ name }) => name === config.name), 'roots'], file)
    }
  })
  write()
  passing('configured', loaded.config)
  for (const { config, all, file } of files) {
    acceptedRoots.of(config).replace(all)
    config.roots = file
  }
  passing('in-force', loaded.config)
  return { logs: files.map(({ config }) => config.name) }
}

/** An intermediate here would let its holder fill the log under a root that nobody named. */
function requireRoot(der: Uint8Array): void {
  const certificate = parseCertificate(der)
  const isRoot =
    certificate.basicConstraints?.ca === true &&
    Buffer.compare(certificate.issuerDer, certificate.subjectDer) === 0 &&
    verifyCertificateSignature(certificate, certificate.publicKey)
  if (!isRoot)
    throw new OperatorError('switch_refused', 'a CT log accepts roots: a certificate here is not self-signed')
}
