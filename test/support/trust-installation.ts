/** A small installation for tests of the trust root: real chains and keys, and an agent with keys in memory. */
import 'reflect-metadata'
import { createHash, generateKeyPairSync, sign, webcrypto } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import { HsmError, type KeyDescription, type SigningAgent, type TufRequest } from '#hsm'
import { initialInventory, type Inventory, type Roles, type TufAgent, tufKeyOf } from '#trust-root'

/** The time of every test. */
export const NOW = new Date('2026-08-01T12:00:00Z')

/** Days after `NOW`. */
export function daysLater(days: number): Date {
  return new Date(NOW.getTime() + days * 86_400_000)
}

/** A fresh SubjectPublicKeyInfo, DER. */
export function spki(namedCurve: 'P-256' | 'P-384' = 'P-256'): Uint8Array {
  return new Uint8Array(generateKeyPairSync('ec', { namedCurve }).publicKey.export({ type: 'spki', format: 'der' }))
}

/** What a chain's leaf-most certificate is; the rest of its profile follows from it. */
export interface ChainProfile {
  readonly leaf: 'issuing-ca' | 'timestamp'
  readonly organization?: string
  readonly criticalUsage?: boolean
  readonly notAfter?: Date
}

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }

/** [first, root], DER, made by @peculiar/x509. */
export async function chain(profile: ChainProfile): Promise<Uint8Array[]> {
  const make = () => webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const [rootKeys, firstKeys] = [await make(), await make()]
  const { organization = 'Example', criticalUsage = true } = profile
  const window = { notBefore: daysLater(-10), notAfter: profile.notAfter ?? daysLater(3650) }
  const name = (commonName: string) => (organization ? `O=${organization}, CN=${commonName}` : `CN=${commonName}`)
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    ...window,
    name: name('Root'),
    keys: rootKeys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  })
  const isCa = profile.leaf === 'issuing-ca'
  const first = await x509.X509CertificateGenerator.create({
    ...window,
    subject: name(isCa ? 'Issuing CA' : 'Timestamps'),
    issuer: root.subject,
    publicKey: firstKeys.publicKey,
    signingKey: rootKeys.privateKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(isCa, undefined, true),
      new x509.KeyUsagesExtension(isCa ? x509.KeyUsageFlags.keyCertSign : x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([isCa ? '1.3.6.1.5.5.7.3.3' : '1.3.6.1.5.5.7.3.8'], criticalUsage),
    ],
  })
  return [new Uint8Array(first.rawData), new Uint8Array(root.rawData)]
}

/** The inventory of a whole installation, every part active. */
export async function exampleInventory(): Promise<Inventory> {
  return initialInventory({
    operator: 'example.org',
    defaultRekor: 1,
    now: NOW,
    certificateAuthority: { url: 'http://127.0.0.1:5555/', chain: await chain({ leaf: 'issuing-ca' }) },
    ctLog: { url: 'http://127.0.0.1:6962', origin: 'ct.example.org', spkiDer: spki() },
    rekorV1: { url: 'http://127.0.0.1:3000', origin: 'rekor-v1.example.org - 4711', spkiDer: spki() },
    rekorV2: { url: 'http://127.0.0.1:3003', origin: 'rekor-v2.example.org', spkiDer: spki() },
    timestampAuthority: { url: 'http://127.0.0.1:3004', chain: await chain({ leaf: 'timestamp' }) },
    oidcIssuer: { url: 'http://127.0.0.1:5556' },
  })
}

/** roles.json for custodians whose agents have a key of their name. */
export async function custodianRoles(
  agents: Readonly<Record<string, TufAgent>>,
  names: readonly string[],
  threshold: number,
): Promise<Roles> {
  const custodians = names.map(async (name) => {
    const described = await agents[name]?.key(name)
    if (described === undefined) throw new Error(`no custodian ${name}`)
    return { name, holder: `${name}'s safe`, key: tufKeyOf({ kind: 'P-256', spkiDer: described.spkiDer }) }
  })
  return {
    custodians: await Promise.all(custodians),
    root: { threshold, custodians: names },
    targets: { threshold, custodians: names },
  }
}

/**
 * An agent that holds P-256 keys in memory and keeps the real one's promise for TUF: a version of a role is signed
 * once, except for the same bytes again.
 */
export function memoryAgent(...names: string[]): SigningAgent & { readonly requests: TufRequest[] } {
  const keys = new Map(names.map((name) => [name, generateKeyPairSync('ec', { namedCurve: 'P-256' })]))
  const signed = new Map<string, { version: number; payload: string }>()
  const requests: TufRequest[] = []
  const find = (name: string) => {
    const pair = keys.get(name)
    if (!pair) throw new HsmError('unknown_key', 'unknown_key', `no key ${name}`)
    return pair
  }
  const unused = () => Promise.reject(new HsmError('refused', 'purpose', 'only TUF keys here'))
  return {
    requests,
    key(name): Promise<KeyDescription> {
      const spkiDer = new Uint8Array(find(name).publicKey.export({ type: 'spki', format: 'der' }))
      const keyId = new Uint8Array(createHash('sha256').update(spkiDer).digest())
      return Promise.resolve({ name, kind: 'P-256', spkiDer, keyId, purposes: ['tuf'] })
    },
    tuf(request) {
      const payload = Buffer.from(request.payload).toString()
      const version = Number(/"version":(\d+)}?/.exec(payload.replace(/"meta":\{.*?\}\}/, ''))?.[1])
      const last = signed.get(`${request.key} ${request.role}`)
      if (last && version <= last.version && payload !== last.payload) {
        return Promise.reject(
          new HsmError('refused', 'tuf_version', `${request.role} ${version} is not above ${last.version}`),
        )
      }
      signed.set(`${request.key} ${request.role}`, { version, payload })
      requests.push(request)
      return Promise.resolve(new Uint8Array(sign('sha256', request.payload, find(request.key).privateKey)))
    },
    tufVersions: ({ key }) =>
      Promise.resolve(
        Object.fromEntries(
          (['root', 'targets', 'snapshot', 'timestamp'] as const).map((role) => [
            role,
            signed.get(`${key} ${role}`)?.version ?? 0,
          ]),
        ),
      ),
    account: unused,
    useDigests: unused,
    accountHead: unused,
    certificate: unused,
    treeHead: unused,
    guardedHead: unused,
    reportHead: unused,
    sct: unused,
    set: unused,
    timestamp: unused,
    status: unused,
    close: () => Promise.resolve(),
  }
}
