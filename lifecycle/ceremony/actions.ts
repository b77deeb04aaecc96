/** What is done for each kind of step: on this machine's tokens, and into the transcript. Each may be begun again after a kill. */
import { randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { OperatorError } from '#alarms'
import { type AdminAgent, formatKeyUri, type TokenObject } from '#hsm'
import { witnessOrigin } from '#tlog'
import { decodePem, equalBytes } from '#x509'
import { type AgentReach, readAgentFile } from '../agents.ts'
import { replaceDurably } from '../durable-file.ts'
import { editAgentFile, keysIn, putKey } from '../rotation/agent-file.ts'
import {
  type CertificateOrder,
  encodeChain,
  prepareCertificate,
  readRequest,
  requestCertificate,
  signCertificate,
} from './certificate-request.ts'
import { judgeByOpenssl } from './openssl-judge.ts'
import type { PlannedKeyPiece } from './plan-lint.ts'
import {
  type CeremonyState,
  checkAttributes,
  digestOf,
  inputOf,
  madeKey,
  rolesText,
  subjectOf,
  unprovenOf,
} from './replay.ts'
import type { AcceptStep, CertificateStep, KeyStep, RequestStep, Step } from './steps.ts'
import type { TokenFacts, TranscriptEvent, TranscriptLine } from './transcript.ts'

/** Where a step is done. */
export interface Bench {
  readonly state: CeremonyState
  /** The ceremony's folder. */
  readonly folder: string
  readonly now: () => Date
  /** The admin channel of the agent of a token, and its file. */
  readonly agentOf: (token: string) => { readonly admin: AdminAgent; readonly reach: AgentReach }
  /** Durable when it returns. */
  readonly append: (said: TranscriptEvent) => TranscriptLine
}

/** Does one step to its end. Rejects with `OperatorError` or `HsmError`; done again it goes on where it was. */
export async function perform(bench: Bench, step: Step): Promise<void> {
  switch (step.what) {
    case 'key':
      return await makeKey(bench, step)
    case 'request':
      return await request(bench, step)
    case 'certificate':
      return await certify(bench, step)
    case 'accept':
      return await accept(bench, step)
    default: {
      const roles = rolesText(bench.state, step)
      bench.append({ event: 'roles', step: step.id, roles, output: digestOf(Buffer.from(roles)) })
    }
  }
}

/** The token as it is, if it is the plan's. Throws `ceremony_token_mismatch`. */
export async function tokenFacts(
  { read }: CeremonyState,
  { admin, reach }: ReturnType<Bench['agentOf']>,
  name: string,
): Promise<TokenFacts> {
  const { tokens, path } = readAgentFile(reach)
  const wanted = read.plan.tokens[name]?.uri ?? ''
  const found = tokens[name]
  if (found === undefined) throw mismatch(`${path} has no token ${name}`)
  if (found.uri !== wanted) throw mismatch(`${path} has token ${name} as ${found.uri}, the plan as ${wanted}`)
  const token = (await admin.tokens()).find((each) => each.name === name)
  if (token?.loggedIn !== true) {
    throw mismatch(`token ${name} is not there, or not logged in: ${token?.latched || token?.fault || 'unknown'}`)
  }
  const { label, serial, model, manufacturer, software } = token
  return { name, label, serial, model, manufacturer, software }
}

async function makeKey(bench: Bench, step: KeyStep): Promise<void> {
  const { state, append } = bench
  const { admin, reach } = bench.agentOf(step.token)
  const token = await tokenFacts(state, { admin, reach }, step.token)
  const before = state.intents.get(step.id)
  if (before !== undefined && JSON.stringify(before.token) !== JSON.stringify(token)) {
    throw mismatch(`the key ${step.key} was begun on token ${before.token.label}, serial ${before.token.serial}`)
  }
  const objects = await admin.listObjects(step.token)
  const idHex = before?.idHex ?? (await intend(bench, step, { token, objects }))
  const { key, found } = await generated(admin, step, { idHex, objects, token })
  const { attributes } = key
  const uri = formatKeyUri({ token: token.label, id: Uint8Array.from(Buffer.from(idHex, 'hex')), object: step.key })
  const unproven = unprovenOf(attributes)
  unfitUnless(() => checkAttributes(step, attributes, unproven))
  const spki = Buffer.from(key.spkiDer).toString('base64')
  const entry = { uri, token: step.token, spki, kind: step.kind, ...firstEntry(step, state) }
  editAgentFile(reach, (document) => putKey(document, step.key, entry))
  await usable(admin, step.key)
  append({
    event: 'key',
    step: step.id,
    token,
    key: { name: step.key, idHex, kind: step.kind, uri, spki },
    attributes,
    unproven,
    found,
    output: digestOf(key.spkiDer),
  })
}

/** Fixes the id of a key that is not there yet, durably. Throws `ceremony_key_exists`. */
async function intend(
  { append, agentOf }: Bench,
  step: KeyStep,
  { token, objects }: { readonly token: TokenFacts; readonly objects: readonly TokenObject[] },
): Promise<string> {
  const { admin, reach } = agentOf(step.token)
  const taken = objects.find(({ label }) => label === step.key)
  if (taken !== undefined || keysIn(reach)[step.key] !== undefined) {
    const where = taken === undefined ? readAgentFile(reach).path : `token ${token.label}`
    throw new OperatorError(
      'ceremony_key_exists',
      `${where} has ${step.key} already, and this transcript did not make it`,
    )
  }
  const bytes = (await admin.tokens()).find(({ name }) => name === step.token)?.idBytes ?? 16
  const ids = new Set(objects.map(({ idHex }) => idHex))
  let idHex: string
  do idHex = randomBytes(bytes).toString('hex')
  while (ids.has(idHex))
  append({ event: 'intent', step: step.id, token, idHex, label: step.key })
  return idHex
}

interface Found {
  readonly spkiDer: Uint8Array
  readonly attributes: TokenObject['attributes']
}

/** The pair under the id: as it lies there already, or made now. Half a pair signs nothing and is made anew. */
async function generated(
  admin: AdminAgent,
  step: KeyStep,
  {
    idHex,
    objects,
    token,
  }: { readonly idHex: string; readonly objects: readonly TokenObject[]; readonly token: TokenFacts },
): Promise<{ readonly key: Found; readonly found: boolean }> {
  const there = pairIn(objects, idHex)
  if (there !== undefined) return { key: there, found: true }
  if (objects.some((object) => object.idHex === idHex)) await admin.destroyKey({ token: step.token, idHex })
  const { kind, key: label, backup } = step
  const { spkiDer } = await admin.generateKey({ token: step.token, label, kind, backup, idHex })
  const made = pairIn(await admin.listObjects(step.token), idHex)
  if (made === undefined || !equalBytes(made.spkiDer, spkiDer)) {
    throw new OperatorError('ceremony_key_unfit', `token ${token.label} does not show the key ${label} that it made`)
  }
  return { key: made, found: false }
}

function pairIn(objects: readonly TokenObject[], idHex: string): Found | undefined {
  const half = (of: TokenObject['class']) => objects.find((object) => object.class === of && object.idHex === idHex)
  const [own, open] = [half('private key'), half('public key')]
  return own === undefined || open === undefined ? undefined : { attributes: own.attributes, spkiDer: open.spkiDer }
}

/** What the key is for from the start; one that waits for its certificate can only ask for it. */
function firstEntry({ piece, witness, key }: KeyStep, { read }: CeremonyState): Readonly<Record<string, unknown>> {
  if (witness && 'origin' in piece) return { purposes: ['witnessHead'], origin: witnessOrigin(piece.origin) }
  switch (piece.what) {
    case 'root-ca':
      return { purposes: ['caCertificate'], maxValiditySeconds: rootSeconds(piece) }
    case 'issuing-ca':
    case 'timestamp-authority':
      return { purposes: ['certificateRequest'] }
    case 'tuf-key':
      return { purposes: ['tuf'], tufRoles: piece.roles }
    case 'account':
      return { purposes: ['accountHead'], origin: piece.origin }
    default: {
      const purposes = {
        'ct-log': ['sct', 'treeHead'],
        'rekor-v1': ['set', 'treeHead'],
        'rekor-v2': ['treeHead'],
      } as const
      const style = { 'ct-log': 'ct', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'tlog' } as const
      const second = read.plan.make.some((each) => 'witness' in each && each.key === key && each.witness)
      return {
        purposes: purposes[piece.what],
        origin: piece.origin,
        style: style[piece.what],
        ...(second ? { witnessKey: `${key}-witness` } : {}),
      }
    }
  }
}

/** What a root may sign: itself, and a day for leap years and rounding. */
function rootSeconds({ years }: { readonly years: number }): number {
  return Math.ceil((years * 365.25 + 1) * 24 * 60 * 60)
}

async function request({ state, folder, append, agentOf }: Bench, step: RequestStep): Promise<void> {
  let text: string
  if (step.token === undefined) {
    const file = join(folder, 'requests', `${step.key}.csr.pem`)
    if (!existsSync(file)) throw awaiting(`the request for ${step.key} is to be carried here, as ${file}`)
    text = readFileSync(file, 'utf8')
  } else {
    const { admin, reach } = agentOf(step.token)
    await tokenFacts(state, { admin, reach }, step.token)
    text = await requestCertificate(admin, { key: step.key, name: step.name })
  }
  const { der, spkiDer } = readRequest(text)
  const input = digestOf(spkiDer)
  if (step.spkiSha256 !== undefined && input !== step.spkiSha256) {
    throw new OperatorError(
      'ceremony_request_refused',
      `the request for ${step.key} is for the key ${input}, the plan for ${step.spkiSha256}`,
    )
  }
  append({ event: 'request', step: step.id, input, csr: Buffer.from(der).toString('base64'), output: digestOf(der) })
}

/** An agent takes a certificate that begins within a day; what was prepared earlier is prepared anew. */
const PREPARED_IS_FRESH_MS = 12 * 60 * 60 * 1000

async function certify(bench: Bench, step: CertificateStep): Promise<void> {
  const { state, now, append, agentOf } = bench
  const { admin, reach } = agentOf(step.token)
  const token = await tokenFacts(state, { admin, reach }, step.token)
  const issuerDer = issuerFor(bench, step)
  const order: CertificateOrder = {
    agent: admin,
    issuerKey: step.issuer,
    issuerChain: issuerDer === undefined ? [] : [issuerDer],
    subject: subjectOf(state, step),
    profile: step.profile,
    name: step.name,
    validityYears: step.years,
  }
  const input = inputOf(state, step)
  const before = state.prepared.get(step.id)
  const fresh = before !== undefined && now().getTime() - Date.parse(before.time) < PREPARED_IS_FRESH_MS
  const tbsDer = fresh ? Uint8Array.from(Buffer.from(before.tbs, 'base64')) : await prepareCertificate(order, now())
  if (!fresh) {
    append({
      event: 'prepared',
      step: step.id,
      input,
      ...(issuerDer === undefined ? {} : { issuer: Buffer.from(issuerDer).toString('base64') }),
      tbs: Buffer.from(tbsDer).toString('base64'),
      tbsSha256: digestOf(tbsDer),
    })
  }
  const chain = await signCertificate(order, tbsDer)
  const [der = new Uint8Array(0)] = chain
  const { verdict, words } = judgeByOpenssl(chain, step.profile)
  append({
    event: 'certificate',
    step: step.id,
    token,
    input,
    chain: chain.map((each) => Buffer.from(each).toString('base64')),
    openssl: `${verdict}: ${words}`,
    output: digestOf(der),
  })
}

/** Certificate of the root that signs, DER: of this ceremony, or carried here; undefined for a root itself. */
function issuerFor({ state, folder }: Bench, step: CertificateStep): Uint8Array | undefined {
  if (step.issuer === step.key) return undefined
  const made = state.chains.get(step.issuer)?.[0]
  if (made !== undefined) return made
  const file = join(folder, 'certificates', `${step.issuer}.pem`)
  if (!existsSync(file)) throw awaiting(`the certificate of ${step.issuer} is to be carried here, as ${file}`)
  const [der] = decodePem(readFileSync(file, 'utf8'), { labels: ['CERTIFICATE'] }).map((block) => block.der)
  if (der === undefined || digestOf(der) !== step.issuerSha256) {
    throw new OperatorError(
      'ceremony_certificate_refused',
      `${file} is not the certificate ${step.issuerSha256} of the plan`,
    )
  }
  return der
}

/** The certificate goes beside the agent's file; the key gets its purpose. */
async function accept({ state, append, agentOf }: Bench, step: AcceptStep): Promise<void> {
  const { admin, reach } = agentOf(step.token)
  await tokenFacts(state, { admin, reach }, step.token)
  const [der = new Uint8Array(0)] = state.chains.get(step.key) ?? []
  const { path } = readAgentFile(reach)
  const file = `${step.key}.pem`
  replaceDurably(join(dirname(path), file), encodeChain([der]))
  const { uri, spkiDer, kind } = madeKey(state, step.key)
  const spki = Buffer.from(spkiDer).toString('base64')
  const entry = { uri, token: step.token, spki, kind, ...lastEntry(step.piece, state, file) }
  editAgentFile(reach, (document) => putKey(document, step.key, entry))
  await usable(admin, step.key)
  append({ event: 'accepted', step: step.id, input: digestOf(der) })
}

function lastEntry(piece: PlannedKeyPiece, state: CeremonyState, file: string): Readonly<Record<string, unknown>> {
  if (piece.what === 'root-ca') {
    return { purposes: ['caCertificate'], issuerCertificate: file, maxValiditySeconds: rootSeconds(piece) }
  }
  if (piece.what !== 'issuing-ca') return { purposes: ['timestamp'] }
  const log = state.read.plan.make.find((each) => each.what === 'ct-log' && each.key === piece.ctKey)
  // A log on another token is in another agent's file: it is named by its key.
  const isHere = log !== undefined && 'token' in log && log.token === piece.token
  const ctKey =
    log === undefined || isHere ? piece.ctKey : Buffer.from(madeKey(state, piece.ctKey).spkiDer).toString('base64')
  return { purposes: ['certificate'], issuerCertificate: file, ctKey, maxValiditySeconds: LEAF_SECONDS }
}

/** Signing certificates are valid for ten minutes, as Fulcio's. */
const LEAF_SECONDS = 600

/** The agent has read its file again, and the key signs. Throws `ceremony_key_unfit`. */
async function usable(admin: AdminAgent, key: string): Promise<void> {
  const { faults } = await admin.reload()
  const fault = faults.find(({ name }) => name === `key:${key}`)
  if (fault !== undefined)
    throw new OperatorError('ceremony_key_unfit', `the agent cannot use ${key}: ${fault.message}`)
}

function unfitUnless(check: () => void): void {
  try {
    check()
  } catch (error) {
    throw new OperatorError('ceremony_key_unfit', error instanceof Error ? error.message : 'unknown', { cause: error })
  }
}

function mismatch(how: string): OperatorError {
  return new OperatorError('ceremony_token_mismatch', how)
}

function awaiting(how: string): OperatorError {
  return new OperatorError('ceremony_awaiting', how)
}
