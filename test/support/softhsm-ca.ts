/** The real agent on a fresh SoftHSM token with one issuing key, under a root in software. */
import 'reflect-metadata'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import { type SigningAgent, spawnAgent, type SpawnedAgent } from '#hsm'
import { encodePem } from '#x509'

const MODULE = '/usr/lib/softhsm/libsofthsm2.so'
const PIN = '648219'
const DAY_MS = 86_400_000

export interface SofthsmCa {
  readonly agent: SigningAgent
  /** DER: intermediate, root. */
  readonly chain: readonly Uint8Array[]
  close(): Promise<void>
}

/** `ctLogSpkiDer`: the log whose SCTs the agent demands. */
export async function softhsmCa(ctLogSpkiDer: Uint8Array): Promise<SofthsmCa> {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-ca-'))
  const softhsmConf = join(folder, 'softhsm2.conf')
  const tokens = join(folder, 'tokens')
  execFileSync('mkdir', [tokens])
  writeFileSync(softhsmConf, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`)
  execFileSync('softhsm2-util', ['--init-token', '--free', '--label', 'online', '--pin', PIN, '--so-pin', PIN], {
    env: { ...process.env, SOFTHSM2_CONF: softhsmConf },
    stdio: 'pipe',
  })
  const pinFile = join(folder, 'pin')
  writeFileSync(pinFile, PIN, { mode: 0o600 })
  const configPath = join(folder, 'agent.yaml')
  const configuration = {
    state: join(folder, 'state'),
    modulePath: MODULE,
    tokens: { online: { uri: 'pkcs11:token=online', pinFile, softhsmConf } },
    adminWhenSpawned: true,
  }

  writeFileSync(configPath, JSON.stringify(configuration))
  const made = await withAgent(configPath, async ({ admin }) => {
    if (admin === undefined) throw new TypeError('the agent has no admin channel')
    return await admin.generateKey({ token: 'online', label: 'issuing-ca', kind: 'P-256' })
  })
  const chain = await certify(made.spkiDer)
  const issuerCertificate = join(folder, 'issuing-ca.pem')
  writeFileSync(issuerCertificate, encodePem('CERTIFICATE', chain[0] ?? new Uint8Array()))
  const key = {
    uri: made.uri,
    token: 'online',
    spki: Buffer.from(made.spkiDer).toString('base64'),
    kind: 'P-256',
    purposes: ['certificate'],
    issuerCertificate,
    ctKey: Buffer.from(ctLogSpkiDer).toString('base64'),
  }
  writeFileSync(configPath, JSON.stringify({ ...configuration, keys: { 'issuing-ca': key } }))
  const spawned = await spawnAgent({ configPath })
  return {
    agent: spawned.agent,
    chain,
    async close() {
      await spawned.close()
      rmSync(folder, { recursive: true })
    },
  }
}

async function withAgent<T>(configPath: string, use: (spawned: SpawnedAgent) => Promise<T>): Promise<T> {
  const spawned = await spawnAgent({ configPath, admin: true })
  try {
    return await use(spawned)
  } finally {
    await spawned.close()
  }
}

/** A root in software over the key of the HSM. */
async function certify(spkiDer: Uint8Array): Promise<readonly Uint8Array[]> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' } as const
  const rootKeys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const usages = new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true)
  const publicKey = new x509.PublicKey(Buffer.from(spkiDer))
  const notBefore = new Date(Date.now() - DAY_MS)
  const notAfter = new Date(Date.now() + 365 * DAY_MS)
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: 'CN=Test root,O=Example',
    notBefore,
    notAfter,
    keys: rootKeys,
    signingAlgorithm: algorithm,
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
    notBefore,
    notAfter,
    publicKey,
    signingKey: rootKeys.privateKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      usages,
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.codeSigning]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(rootKeys.publicKey),
    ],
  })
  return [new Uint8Array(intermediate.rawData), new Uint8Array(root.rawData)]
}
