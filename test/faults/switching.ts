/** A running installation whose standby keys take over one after the other, under load, as operators' commands do it. */
import { execFileSync } from 'node:child_process'
import { createHash, createPublicKey, verify, X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parse, stringify } from 'yaml'
import { readStandbyPlan, type StandbyKind, type StandbyMember, withAdminAgent } from '#lifecycle'
import { inspectTimestampResponse } from '#timestamp'
import { verifyCheckpoint, witnessOrigin } from '#tlog'
import { decodePem, decodeSctList, OID, parseCertificate, parseSct, sctSignatureInput, withoutExtension } from '#x509'
import { readLedger } from '../crash/ledger.ts'
import { type RunningLoad, startLoad } from '../crash/load.ts'
import type { Outcome, Use } from '../crash/loader.ts'
import { succeeded } from '../e2e/run.ts'
import { runChancery, type Stack } from '../e2e/stack.ts'
import { askAdmin } from '#server'

const EMAIL = 'operator@example.test'

interface AgentKey {
  readonly uri: string
  readonly token: string
  readonly spki: string
  readonly [option: string]: unknown
}
interface AgentFile {
  tokens: Record<string, object>
  keys: Record<string, AgentKey>
}

const agentFile = (dataDir: string, name: 'online' | 'standby'): AgentFile =>
  parse(readFileSync(join(dataDir, 'agent', `${name}.yaml`), 'utf8')) as AgentFile // as init wrote it

/** Changes what the serving agent has, and lets it read it. */
export async function reconfigureAgent(dataDir: string, change: (file: AgentFile) => void): Promise<void> {
  const file = agentFile(dataDir, 'online')
  change(file)
  writeFileSync(join(dataDir, 'agent/online.yaml'), stringify(file))
  await withAdminAgent({ dataDir, agent: 'online' }, async (admin) => await admin.reload())
}

export function standbyOf(dataDir: string, kind: StandbyKind): StandbyMember {
  const member = readStandbyPlan(dataDir)?.members.find((each) => each.kind === kind)
  if (member === undefined) throw new Error(`nothing stands by for ${kind}`)
  return member
}

/** Gives the serving agent a standby key with the options of the key whose place it is to take. */
export async function addToAgent(dataDir: string, member: StandbyMember, former: string): Promise<void> {
  await reconfigureAgent(dataDir, (file) => {
    const { name, key } = member
    const { uri, token, spki } = key
    file.tokens[token] = agentFile(dataDir, 'standby').tokens[token] ?? {}
    const certified = file.keys[former]?.['issuerCertificate'] !== undefined && 'certificate' in member
    const own = {
      ...('origin' in member && { origin: member.origin }),
      ...(certified && { issuerCertificate: join(dataDir, member.certificate) }),
    }
    const { witnessKey: _witness, ...options }: Partial<AgentKey> = file.keys[former] ?? {}
    const witness = 'witnessKey' in member ? member.witnessKey : undefined
    const witnessed = witness === undefined ? {} : { witnessKey: `${name}-witness` }
    file.keys[name] = { ...options, uri, token, spki, ...own, ...witnessed }
    if (witness !== undefined && 'origin' in member) {
      const origin = witnessOrigin(member.origin)
      file.keys[`${name}-witness`] = { ...witness, purposes: ['witnessHead'], origin }
    }
    if (member.kind !== 'ct-log') return
    for (const each of Object.values(file.keys)) {
      if (each['ctKey'] !== undefined) Object.assign(each, { ctKey: [each['ctKey'], name].flat() })
    }
  })
}

export const ask = async (dataDir: string, verb: string, argument: unknown = {}): Promise<unknown> =>
  await askAdmin(join(dataDir, 'run/admin.sock'), verb, { argument, timeoutMs: 60_000 })

export function chainPem(dataDir: string, member: StandbyMember): string {
  if (!('chain' in member)) throw new TypeError(`${member.name} has no chain`)
  return readFileSync(join(dataDir, member.chain), 'utf8')
}

/** Clients of every service; `more` waits until each has been served so many times again. */
export interface ClientLoad {
  readonly running: RunningLoad
  readonly folder: string
  more(count: number): Promise<void>
  /** Ends it; what was sent and answered. */
  finish(): Promise<readonly Outcome[]>
}

export async function startClients(
  { dataDir, endpoints }: Stack,
  { folder, lanes }: { readonly folder: string; readonly lanes: Readonly<Partial<Record<Use, number>>> },
): Promise<ClientLoad> {
  const token = succeeded(await runChancery(['dev', 'token', '--data', dataDir, '--email', EMAIL])).stdout.trim()
  const load = { folder, name: folder, endpoints, token, email: EMAIL, lanes }
  const running = startLoad(load, { PATH: process.env['PATH'] ?? '' })
  let isOver = false
  running.ended.then(
    () => (isOver = true),
    () => (isOver = true),
  )
  return {
    running,
    folder,
    async more(count) {
      const before = await running.acknowledged()
      const uses = Object.keys(lanes) as Use[] // its own keys
      const late = performance.now() + 60_000
      for (;;) {
        if (performance.now() > late) throw new Error(`not every service answered ${count} times within a minute`)
        const now = await running.acknowledged()
        if (uses.every((use) => now[use] >= before[use] + count)) return
        await delay(20)
      }
    },
    async finish() {
      // Those of a server that is gone have ended by themselves.
      await Promise.race([running.ended, delay(100)])
      if (!isOver) running.stop()
      await running.ended
      const { acknowledged, unanswered, timestamps } = readLedger(folder)
      return [...acknowledged, ...unanswered, ...timestamps]
    },
  }
}

/** Names of the chain (by issuing certificate) and the CT log that a certificate reply is of; throws unless all of it verifies. */
export function judgeCertificate(
  { reply }: Outcome,
  trust: {
    readonly chains: Readonly<Record<string, readonly Uint8Array[]>>
    readonly ctLogs: Readonly<Record<string, Uint8Array>>
  },
): { readonly chain: string; readonly ctLog: string } {
  const { certificates } = (
    JSON.parse(reply) as { signedCertificateEmbeddedSct: { chain: { certificates: string[] } } }
  ).signedCertificateEmbeddedSct.chain
  const [leaf, ...issuers] = certificates.map((pem) => decodePem(pem, { labels: ['CERTIFICATE'] })[0]?.der)
  if (leaf === undefined) throw new Error('a reply without a certificate')
  const chain = Object.entries(trust.chains).find(
    ([, ders]) => Buffer.compare(ders[0] ?? leaf, issuers[0] ?? leaf) === 0,
  )
  if (chain === undefined || !sameDers(chain[1], issuers)) throw new Error('a reply with a chain that nobody trusts')
  if (!new X509Certificate(leaf).verify(new X509Certificate(chain[1][0] ?? leaf).publicKey))
    throw new Error('a certificate that its issuer did not sign')
  const certificate = parseCertificate(leaf)
  const [sctDer, ...others] = decodeSctList(certificate.extension(OID.sctList)?.value ?? new Uint8Array())
  if (sctDer === undefined || others.length > 0) throw new Error('a certificate without exactly one SCT')
  const sct = parseSct(sctDer)
  const ctLog = Object.entries(trust.ctLogs).find(([, spki]) => Buffer.compare(sha256(spki), sct.logId) === 0)
  if (ctLog === undefined) throw new Error('a certificate whose SCT is of no log that is known')
  const issuerKeyHash = sha256(parseCertificate(chain[1][0] ?? leaf).publicKey.spkiDer)
  const tbsDer = withoutExtension(certificate.tbsDer, OID.sctList)
  const signed = sctSignatureInput({ type: 'precert', issuerKeyHash, tbsDer }, sct.timestampMs, sct.extensions)
  const key = createPublicKey({ key: Buffer.from(ctLog[1]), format: 'der', type: 'spki' })
  if (!verify('sha256', signed, key, sct.signatureDer)) throw new Error('an SCT that does not verify')
  return { chain: chain[0], ctLog: ctLog[0] }
}

/** The name of the chain that a timestamp reply is of; throws unless it verifies. */
export function judgeTimestamp({ reply }: Outcome, chains: Readonly<Record<string, readonly Uint8Array[]>>): string {
  const response = inspectTimestampResponse(new Uint8Array(Buffer.from(reply, 'base64')))
  const [leaf] = response.certificates
  const chain = Object.entries(chains).find(
    ([, ders]) => leaf !== undefined && Buffer.compare(ders[0] ?? leaf, leaf) === 0,
  )
  if (leaf === undefined || chain === undefined) throw new Error('a timestamp of nobody who is known')
  const key = new X509Certificate(leaf).publicKey
  if (!verify('sha256', response.signedAttributesDer, key, response.signatureDer))
    throw new Error('a timestamp that does not verify')
  return chain[0]
}

/** The name of the log that a Rekor v2 reply is of; throws unless its checkpoint is signed by that log's key. */
export function judgeV2({ reply }: Outcome, keys: Readonly<Record<string, Uint8Array>>): string {
  const { logId, inclusionProof } = JSON.parse(reply) as {
    logId: { keyId: string }
    inclusionProof: { checkpoint: { envelope: string } }
  }
  const { envelope } = inclusionProof.checkpoint
  const [name, spkiDer] = keyOf(keys, Buffer.from(logId.keyId, 'base64'))
  verifyCheckpoint(envelope, { origin: envelope.split('\n')[0] ?? '', spkiDer })
  return name
}

/** The name of the log that a Rekor v1 reply is of; throws unless its signed entry timestamp is by that log's key. */
export function judgeV1({ reply }: Outcome, keys: Readonly<Record<string, Uint8Array>>): string {
  const [entry] = Object.values(
    JSON.parse(reply) as Record<
      string,
      {
        body: string
        integratedTime: number
        logID: string
        logIndex: number
        verification: { signedEntryTimestamp: string }
      }
    >,
  )
  if (entry === undefined) throw new Error('a reply without an entry')
  const { body, integratedTime, logID, logIndex, verification } = entry
  const [name, spkiDer] = keyOf(keys, Buffer.from(logID, 'hex'))
  const key = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  const signed = Buffer.from(JSON.stringify({ body, integratedTime, logID, logIndex }))
  if (!verify('sha256', signed, key, Buffer.from(verification.signedEntryTimestamp, 'base64')))
    throw new Error('a signed entry timestamp that does not verify')
  return name
}

function keyOf(keys: Readonly<Record<string, Uint8Array>>, id: Uint8Array): [name: string, spkiDer: Uint8Array] {
  const found = Object.entries(keys).find(([, spkiDer]) => Buffer.compare(sha256(spkiDer), id) === 0)
  if (found === undefined) throw new Error('a reply of a log that nobody knows')
  return found
}

/** Base64 of a log's id, from its key in base64. */
export function keyIdOf(spki: string): string {
  return Buffer.from(sha256(Buffer.from(spki, 'base64'))).toString('base64')
}

/** What the server is told of a standby log that takes the place of `former`. */
export function successorOf(dataDir: string, member: StandbyMember, former: string): Record<string, unknown> {
  if (!('origin' in member)) throw new TypeError(`${member.name} is no log`)
  const { logs } = parse(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as {
    logs: { name: string; listen: string; url: string }[]
  } // as init wrote it
  const fields = logs.find(({ name }) => name === former)
  const { name, origin, database } = member
  const address = 'treeId' in member ? { treeId: member.treeId } : { listen: member.listen, url: member.url }
  return { ...fields, name, origin, database, key: name, ...address }
}

/** PEM of a root that nobody has heard of. */
export function strangeRoot(): string {
  const subject = ['-subj', '/CN=Another Root/O=Example', '-nodes', '-keyout', '/dev/null']
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384']
  return execFileSync('openssl', ['req', '-x509', ...kind, ...subject, '-days', '30'], { stdio: 'pipe' }).toString()
}

/** DER of a PEM file's certificates. */
export function dersOf(pem: string): Uint8Array[] {
  return decodePem(pem, { labels: ['CERTIFICATE'] }).map(({ der }) => der)
}

function sameDers(a: readonly Uint8Array[], b: readonly (Uint8Array | undefined)[]): boolean {
  return a.length === b.length && a.every((der, at) => Buffer.compare(der, b[at] ?? new Uint8Array()) === 0)
}

function sha256(bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(bytes).digest()
}
