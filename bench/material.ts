/** What requests are made from, gathered from the running stack and its folder. */
import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { load } from './http-load.ts'
import type { IssuerDocuments } from './primitives.ts'
import { certificateIn, certificateRequest, type Material } from './requests.ts'
import { type Stack, token } from './stack.ts'

const EMAIL = 'bench@example.test'
/** Certificates that sign entries, used in turn. */
const SIGNERS = 64

/** Keys and chains as their services publish them, and certificates to sign entries with. */
export async function gather({ endpoints }: Pick<Stack, 'endpoints'>, dataDir: string): Promise<Material> {
  const agent = parseYaml(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')) as {
    keys: Record<string, { spki: string; origin?: string }>
  }
  const key = (name: string) => Buffer.from(agent.keys[name]?.spki ?? '', 'base64')
  const origin = (name: string) => agent.keys[name]?.origin ?? ''
  const base = {
    endpoints,
    token: await token(dataDir, EMAIL),
    email: EMAIL,
    caChain: chainIn(join(dataDir, 'ca/chain.pem')),
    timestampCertificate: chainIn(join(dataDir, 'timestamp/chain.pem'))[0] ?? new Uint8Array(),
    logKeys: { ct: key('ct'), rekorV1: key('rekor-v1'), rekorV2: key('rekor-v2') },
    origins: { ct: origin('ct'), rekorV1: origin('rekor-v1'), rekorV2: origin('rekor-v2') },
    entries: 0,
  }
  const signers = []
  for (let i = 0; i < SIGNERS; i++) {
    const { request, privateKey } = certificateRequest(base)
    let answer: Uint8Array = new Uint8Array()
    const noted = { ...request, verify: (body: Uint8Array) => void (answer = body) }
    const { failures, sample } = await load({
      url: endpoints.ca,
      requests: [noted],
      connections: 1,
      seconds: 10,
      expectedStatus: 200,
    })
    refuseFailures('certificate', failures)
    for (const { request: sent, body } of sample) sent.verify(body)
    signers.push({ certificate: new X509Certificate(certificateIn(answer)).raw, privateKey })
  }
  return { ...base, signers }
}

function chainIn(file: string): Uint8Array[] {
  const blocks = readFileSync(file, 'utf8').match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  return blocks.map((pem) => new X509Certificate(pem).raw)
}

/** What the issuer's keys are verified from, while it can be asked. */
export async function issuerDocuments(issuerUrl: string): Promise<IssuerDocuments> {
  const discovery = (await (await fetch(`${issuerUrl}/.well-known/openid-configuration`)).json()) as {
    jwks_uri: string
  }
  return { issuerUrl, discovery, keySet: await (await fetch(discovery.jwks_uri)).json() }
}

/** Throws if an answer had another status than it should have. */
export function refuseFailures(
  kind: string,
  failures: Readonly<Record<string, { count: number; example: string }>>,
): void {
  const [first] = Object.entries(failures)
  if (first === undefined) return
  const [status, { count, example }] = first
  throw new Error(`${kind}: ${count} answers with status ${status}, for example: ${example}`)
}
