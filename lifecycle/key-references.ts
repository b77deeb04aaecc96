/** Where an installation speaks of a key: which configurations name it, which certificates are of it. */
import { X509Certificate } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseKeyUri } from '#hsm'
import { decodePem } from '#x509'
import { agentNames, readAgentFile } from './agents.ts'

export interface KeyName {
  /** Path of the agent's configuration. */
  readonly file: string
  /** Its name there. */
  readonly key: string
}

/** Every configured key of a data folder's agents with this CKA_ID; a configuration that cannot be read throws. */
export function namesOfId(dataDir: string, idHex: string): KeyName[] {
  return agentNames(dataDir).flatMap((agent) => {
    const { path, keys } = readAgentFile({ dataDir, agent })
    return Object.entries(keys)
      .filter(([, places]) =>
        places.some(({ uri }) => Buffer.from(parseKeyUri(uri).id).toString('hex') === idHex.toLowerCase()),
      )
      .map(([key]) => ({ file: path, key }))
  })
}

export interface CertificateOfKey {
  /** Below the data folder. */
  readonly file: string
  readonly subject: string
  readonly notAfter: string
  readonly sha256: string
}

/** Certificates of this public key in `ca/` and `timestamp/` of a data folder, each once. */
export function certificatesOf(dataDir: string, spkiDer: Uint8Array): CertificateOfKey[] {
  const found = new Map<string, CertificateOfKey>()
  for (const folder of ['ca', 'timestamp']) {
    const path = join(dataDir, folder)
    const names = existsSync(path) ? readdirSync(path).filter((name) => name.endsWith('.pem')) : []
    for (const name of names.toSorted()) {
      for (const { der } of decodePem(readFileSync(join(path, name), 'utf8'), { labels: ['CERTIFICATE'] })) {
        const certificate = new X509Certificate(der)
        const own = certificate.publicKey.export({ type: 'spki', format: 'der' })
        if (!own.equals(spkiDer) || found.has(certificate.fingerprint256)) continue
        found.set(certificate.fingerprint256, {
          file: join(folder, name),
          subject: certificate.subject.split('\n').join(', '),
          notAfter: certificate.validToDate.toISOString(),
          sha256: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
        })
      }
    }
  }
  return [...found.values()]
}
