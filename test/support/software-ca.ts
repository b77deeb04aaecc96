/**
 * Keys in software behind the interfaces of the HSM agent and of the log, for tests of what stands above them. They
 * sign what they are given: that the real agent checks first is shown by its own tests and the contract tests.
 */
import 'reflect-metadata'
import { createHash, generateKeyPairSync, type KeyObject, sign, webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import type { CtLog, PreCertificateEntry } from '#ca'
import { HsmError, type SigningAgent } from '#hsm'
import { sctSignatureInput, serializeSct } from '#x509'

export interface SoftwareCa {
  /** DER: intermediate, root. */
  readonly chain: readonly Uint8Array[]
  readonly agent: SigningAgent
  /** What the agent was asked to sign. */
  readonly signed: Uint8Array[]
  /** Set to make the agent fail. */
  failure: HsmError | undefined
}

const P256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const P384 = { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' } as const
const DAY_MS = 86_400_000

/** A root (P-384) and an intermediate (P-256) around `nowMs`, by @peculiar/x509. */
export async function softwareCa(nowMs: number, options: { intermediateEnds?: number } = {}): Promise<SoftwareCa> {
  const rootKeys = await webcrypto.subtle.generateKey(P384, true, ['sign', 'verify'])
  const keys = await webcrypto.subtle.generateKey(P256, true, ['sign', 'verify'])
  const usages = new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true)
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: 'CN=Test root,O=Example',
    notBefore: new Date(nowMs - DAY_MS),
    notAfter: new Date(nowMs + 3650 * DAY_MS),
    keys: rootKeys,
    signingAlgorithm: P384,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      usages,
      await x509.SubjectKeyIdentifierExtension.create(rootKeys.publicKey),
    ],
  })
  const intermediate = await x509.X509CertificateGenerator.create({
    serialNumber: '02',
    subject: 'CN=Test intermediate,O=Example',
    issuer: root.subject,
    notBefore: new Date(nowMs - DAY_MS),
    notAfter: new Date(options.intermediateEnds ?? nowMs + 365 * DAY_MS),
    publicKey: keys.publicKey,
    signingKey: rootKeys.privateKey,
    signingAlgorithm: P384,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      usages,
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.codeSigning]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(rootKeys.publicKey),
    ],
  })
  const { KeyObject: KeyObjectClass } = await import('node:crypto')
  const privateKey = KeyObjectClass.from(keys.privateKey)
  const spkiDer = new Uint8Array(await webcrypto.subtle.exportKey('spki', keys.publicKey))
  const signed: Uint8Array[] = []
  const ca: SoftwareCa = {
    chain: [new Uint8Array(intermediate.rawData), new Uint8Array(root.rawData)],
    signed,
    failure: undefined,
    agent: softwareAgent(spkiDer, (tbsDer) => {
      if (ca.failure !== undefined) throw ca.failure
      signed.push(tbsDer)
      return sign('sha256', tbsDer, privateKey)
    }),
  }
  return ca
}

function softwareAgent(spkiDer: Uint8Array, signTbs: (tbsDer: Uint8Array) => Uint8Array): SigningAgent {
  const absent = () => Promise.reject(new HsmError('unknown_key', 'no_key', 'this agent signs certificates only'))
  return {
    key: (name) =>
      name === 'issuing-ca'
        ? Promise.resolve({
            name,
            kind: 'P-256',
            spkiDer,
            keyId: createHash('sha256').update(spkiDer).digest(),
            purposes: ['certificate'],
          })
        : absent(),
    certificate: async ({ tbsDer }) => Promise.resolve(Uint8Array.from(signTbs(tbsDer))),
    treeHead: absent,
    guardedHead: absent,
    reportHead: absent,
    sct: absent,
    set: absent,
    timestamp: absent,
    tuf: absent,
    tufVersions: absent,
    account: absent,
    useDigests: absent,
    accountHead: absent,
    status: absent,
    close: () => Promise.resolve(),
  }
}

export interface SoftwareLog extends CtLog {
  readonly spkiDer: Uint8Array
  readonly entries: PreCertificateEntry[]
  /** Replaces the answer to the next entries. */
  answer: ((entry: PreCertificateEntry) => Promise<Uint8Array>) | undefined
  sct(entry: PreCertificateEntry, change?: { timestampMs?: number; key?: KeyObject; logId?: Uint8Array }): Uint8Array
}

/** A log that keeps nothing but a list, with a P-256 key. */
export function softwareLog(now: () => number): SoftwareLog {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const spkiDer = Uint8Array.from(publicKey.export({ format: 'der', type: 'spki' }))
  const log: SoftwareLog = {
    spkiDer,
    entries: [],
    answer: undefined,
    sct(entry, change = {}) {
      const timestampMs = change.timestampMs ?? now()
      const extensions = new Uint8Array()
      const input = sctSignatureInput(
        { type: 'precert', issuerKeyHash: entry.issuerKeyHash, tbsDer: entry.tbsDer },
        timestampMs,
        extensions,
      )
      const logId = change.logId ?? createHash('sha256').update(spkiDer).digest()
      return serializeSct({
        logId,
        timestampMs,
        extensions,
        signatureDer: sign('sha256', input, change.key ?? privateKey),
      })
    },
    async addPreCertificate(entry) {
      log.entries.push(entry)
      return (await log.answer?.(entry)) ?? log.sct(entry)
    },
  }
  return log
}
