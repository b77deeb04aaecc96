/**
 * What a transcript's lines come to, held against the plan: the same code tells a run what is left to do and an auditor
 * whether what was done was what was approved. Pure but for ssh-keygen and openssl, which give their second opinions.
 */
import { hash } from 'node:crypto'
import { OperatorError } from '#alarms'
import type { KeyKind, TokenObject } from '#hsm'
import { formatRoles, tufKeyOf } from '#trust-root'
import { encodePem, equalBytes, parseCertificate, parseSpki, parseTbsCertificate, X509Error } from '#x509'
import { judgeAttributes } from '../token-contents.ts'
import { checkStatement } from './approval.ts'
import { checkChain, readRequest } from './certificate-request.ts'
import { lintAuthority } from './lint-authority.ts'
import { type ReadPlan, readPlan } from './plan.ts'
import { type CertificateStep, type KeyStep, type RolesStep, type Step, stepsOf } from './steps.ts'
import type { TokenFacts, TranscriptEvent, TranscriptLine } from './transcript.ts'

type Said<E extends TranscriptEvent['event']> = Extract<TranscriptLine, { event: E }>

/** A key that was made. */
export interface MadeKey {
  readonly name: string
  readonly token: TokenFacts
  readonly idHex: string
  readonly kind: KeyKind
  readonly uri: string
  readonly spkiDer: Uint8Array
  readonly unproven: readonly string[]
}

/** Where a ceremony stands. */
export interface CeremonyState {
  readonly read: ReadPlan
  readonly steps: readonly Step[]
  /** Names of the operators whose approvals are in the transcript. */
  readonly approvals: readonly string[]
  /** Ids of steps. */
  readonly done: ReadonlySet<string>
  readonly keys: ReadonlyMap<string, MadeKey>
  /** By key, DER. */
  readonly requests: ReadonlyMap<string, Uint8Array>
  /** By key, DER: its certificate first, the root last. */
  readonly chains: ReadonlyMap<string, readonly Uint8Array[]>
  /** By id of the step. */
  readonly intents: ReadonlyMap<string, Said<'intent'>>
  readonly prepared: ReadonlyMap<string, Said<'prepared'>>
  readonly roles: string | undefined
  readonly begun: boolean
  readonly ended: boolean
}

/** The plan that a transcript begins with. Throws `ceremony_transcript_wrong`. */
export function planOf(lines: readonly TranscriptLine[]): ReadPlan {
  const [first] = lines
  if (first?.event !== 'begin') throw wrong(1, 'it does not begin a ceremony')
  const read = readPlan(Buffer.from(first.plan, 'utf8'))
  if (read.sha256 !== first.planSha256) throw wrong(1, 'the digest is not that of the plan')
  return read
}

/** Throws `ceremony_transcript_wrong` with the first line that the plan does not allow. */
export function replay(lines: readonly TranscriptLine[]): Replay {
  const replayed = new Replay(planOf(lines))
  for (const line of lines) replayed.follow(line)
  return replayed
}

class Contradiction extends Error {}

/** A state that follows the transcript, line by line. */
export class Replay implements CeremonyState {
  readonly read: ReadPlan
  readonly steps: readonly Step[]
  readonly approvals: string[] = []
  readonly done = new Set<string>()
  readonly keys = new Map<string, MadeKey>()
  readonly requests = new Map<string, Uint8Array>()
  readonly chains = new Map<string, readonly Uint8Array[]>()
  readonly intents = new Map<string, Said<'intent'>>()
  readonly prepared = new Map<string, Said<'prepared'>>()
  roles: string | undefined
  ended = false
  begun = false

  constructor(read: ReadPlan) {
    this.read = read
    this.steps = stepsOf(read.plan)
  }

  /** Throws `ceremony_transcript_wrong` for a line that may not come now. */
  follow(line: TranscriptLine): void {
    try {
      this.#take(line)
    } catch (error) {
      if (error instanceof Contradiction) throw wrong(line.line, error.message)
      if (error instanceof OperatorError || error instanceof X509Error) throw wrong(line.line, error.message, error)
      throw error
    }
  }

  #take(line: TranscriptLine): void {
    const { plan } = this.read
    if (this.ended) throw new Contradiction('the ceremony had ended')
    if (Date.parse(line.time) >= Date.parse(plan.expires)) throw new Contradiction('the plan had expired')
    const machines = Object.values(plan.tokens).map(({ machine }) => machine)
    if (!machines.includes(line.machine)) throw new Contradiction(`the plan has no machine ${line.machine}`)
    if (line.event === 'begin') return this.#begin(line)
    if (line.event === 'approval') return this.#approval(line)
    const missing = plan.quorum - this.approvals.length
    if (missing > 0) throw new Contradiction(`${missing} of ${plan.quorum} approvals were missing`)
    switch (line.event) {
      case 'resumed':
        return undefined
      case 'intent':
        return this.#intent(line)
      case 'key':
        return this.#key(line)
      case 'request':
        return this.#request(line)
      case 'prepared':
        return this.#prepared(line)
      case 'certificate':
        return this.#certificate(line)
      case 'accepted':
        return this.#accepted(line)
      case 'roles':
        return this.#roles(line)
      default:
        return this.#end(line)
    }
  }

  #begin(line: Said<'begin'>): void {
    if (this.begun) throw new Contradiction('it begins a second time')
    if (line.planSha256 !== this.read.sha256) throw new Contradiction('it begins another plan')
    this.begun = true
  }

  #approval({ name, statement, signature }: Said<'approval'>): void {
    const said = checkStatement(this.read, { statement, signature }, 'approve')
    if (said.name !== name) throw new Contradiction(`it is by ${said.name}, not by ${name}`)
    if (this.approvals.includes(name)) throw new Contradiction(`${name} has approved already`)
    this.approvals.push(name)
  }

  #intent(line: Said<'intent'>): void {
    const step = this.#step(line, 'key')
    if (this.intents.has(step.id)) throw new Contradiction('a key for this step was begun before')
    if (line.label !== step.key || line.token.name !== step.token) throw new Contradiction('it is for another key')
    if (
      [...this.intents.values()].some(({ idHex, token }) => idHex === line.idHex && token.serial === line.token.serial)
    ) {
      throw new Contradiction('another key has this id')
    }
    this.intents.set(step.id, line)
  }

  #key(line: Said<'key'>): void {
    const step = this.#step(line, 'key')
    const intent = this.intents.get(step.id)
    const { key, token, attributes, unproven } = line
    if (intent === undefined) throw new Contradiction('nothing was written before the key was made')
    if (key.idHex !== intent.idHex || JSON.stringify(token) !== JSON.stringify(intent.token)) {
      throw new Contradiction('it is another key than was begun, or on another token')
    }
    const spkiDer = bytesOf(key.spki)
    if (key.name !== step.key || key.kind !== step.kind || kindOf(spkiDer) !== step.kind) {
      throw new Contradiction(`it is not a key ${step.key} of kind ${step.kind}`)
    }
    checkAttributes(step, attributes, unproven)
    if (line.output !== digestOf(spkiDer)) throw new Contradiction('the output is not the digest of the public key')
    for (const other of this.keys.values()) {
      if (equalBytes(other.spkiDer, spkiDer)) throw new Contradiction(`it is the same key as ${other.name}`)
    }
    this.keys.set(key.name, { ...key, token, spkiDer, unproven })
    this.done.add(step.id)
  }

  #request(line: Said<'request'>): void {
    const step = this.#step(line, 'request')
    const der = bytesOf(line.csr)
    const request = readRequest(encodePem('CERTIFICATE REQUEST', der))
    const expected = step.spkiSha256 ?? digestOf(madeKey(this, step.key).spkiDer)
    if (line.input !== expected || digestOf(request.spkiDer) !== expected) {
      throw new Contradiction(`the request is not for the key ${step.key}`)
    }
    if (step.spkiSha256 === undefined && JSON.stringify(request.name) !== JSON.stringify(step.name)) {
      throw new Contradiction('the request is for another name')
    }
    if (line.output !== digestOf(der)) throw new Contradiction('the output is not the digest of the request')
    this.requests.set(step.key, der)
    this.done.add(step.id)
  }

  #prepared(line: Said<'prepared'>): void {
    const step = this.#step(line, 'certificate')
    if (line.input !== inputOf(this, step)) throw new Contradiction('it was prepared from another request')
    const tbsDer = bytesOf(line.tbs)
    if (line.tbsSha256 !== digestOf(tbsDer)) throw new Contradiction('the digest is not that of what was prepared')
    const issuerDer = this.#issuer(step, line.issuer)
    const faults = lintAuthority(parseTbsCertificate(tbsDer), {
      profile: step.profile,
      name: step.name,
      spkiDer: subjectOf(this, step).spkiDer,
      validityYears: step.years,
      ...(issuerDer === undefined ? {} : { issuer: parseCertificate(issuerDer) }),
    })
    if (faults.length > 0) throw new Contradiction(faults.join('; '))
    this.prepared.set(step.id, line)
  }

  #certificate(line: Said<'certificate'>): void {
    const step = this.#step(line, 'certificate')
    const prepared = this.prepared.get(step.id)
    const chain = line.chain.map(bytesOf)
    const [der] = chain
    if (der === undefined || prepared === undefined)
      throw new Contradiction('nothing was prepared before it was signed')
    if (line.input !== inputOf(this, step)) throw new Contradiction('it was made from another request')
    if (!equalBytes(parseCertificate(der).tbsDer, bytesOf(prepared.tbs))) {
      throw new Contradiction('what was signed is not what was prepared')
    }
    const { profile, name, years } = step
    checkChain(chain, { profile, name, spkiDer: subjectOf(this, step).spkiDer, validityYears: years })
    const issuerDer = this.#issuer(step, prepared.issuer) ?? der
    if (!equalBytes(chain.at(-1) ?? der, issuerDer)) throw new Contradiction('the root is another one')
    if (line.token.name !== step.token) throw new Contradiction('it was signed on another token')
    if (line.output !== digestOf(der)) throw new Contradiction('the output is not the digest of the certificate')
    this.chains.set(step.key, chain)
    this.done.add(step.id)
  }

  #accepted(line: Said<'accepted'>): void {
    const step = this.#step(line, 'accept')
    const der = this.chains.get(step.key)?.[0]
    if (der === undefined || line.input !== digestOf(der)) throw new Contradiction('it is another certificate')
    this.done.add(step.id)
  }

  #roles(line: Said<'roles'>): void {
    const step = this.#step(line, 'roles')
    if (line.roles !== rolesText(this, step))
      throw new Contradiction('the roles are not those of the plan and its keys')
    if (line.output !== digestOf(Buffer.from(line.roles)))
      throw new Contradiction('the output is not the digest of the roles')
    this.roles = line.roles
    this.done.add(step.id)
  }

  #end(line: Said<'end'>): void {
    const missing = this.steps.filter(({ id }) => !this.done.has(id))
    if (missing.length > 0) throw new Contradiction(`steps were not done: ${missing.map(({ id }) => id).join(', ')}`)
    if (line.steps !== this.steps.length || line.planSha256 !== this.read.sha256) {
      throw new Contradiction('it ends another ceremony')
    }
    this.ended = true
  }

  /** The step of a line, if it may be done now, and there. */
  #step<W extends Step['what']>(
    { step: id, machine }: { step: string; machine: string },
    what: W,
  ): Extract<Step, { what: W }> {
    const step = this.steps.find((each) => each.id === id)
    if (step?.what !== what) throw new Contradiction(`the plan has no step ${JSON.stringify(id)} of this kind`)
    if (this.done.has(id)) throw new Contradiction(`the step ${id} was done before`)
    const first = step.after.find((each) => !this.done.has(each))
    if (first !== undefined) throw new Contradiction(`the step ${id} comes after ${first}, which was not done`)
    if ('machine' in step && step.machine !== machine) throw new Contradiction(`the step ${id} is for ${step.machine}`)
    return step as Extract<Step, { what: W }> // just compared
  }

  /** Certificate of the root that signs, DER; undefined for a root that signs itself. */
  #issuer(step: CertificateStep, given: string | undefined): Uint8Array | undefined {
    if (step.issuer === step.key) {
      if (given !== undefined) throw new Contradiction('a root has no issuer')
      return undefined
    }
    const der = given === undefined ? new Uint8Array(0) : bytesOf(given)
    const made = this.chains.get(step.issuer)?.[0]
    const isRight = made === undefined ? digestOf(der) === step.issuerSha256 : equalBytes(der, made)
    if (!isRight) throw new Contradiction(`the certificate of ${step.issuer} is not the one of the plan`)
    return der
  }
}

/** Digest of what a certificate is made from: the request, or a root's own public key; hex. */
export function inputOf(state: CeremonyState, step: CertificateStep): string {
  if (step.issuer === step.key) return digestOf(madeKey(state, step.key).spkiDer)
  return digestOf(requestFor(state, step.key))
}

/** The key that gets the certificate. */
export function subjectOf(
  state: CeremonyState,
  step: CertificateStep,
): { readonly spkiDer: Uint8Array; readonly kind: KeyKind } {
  if (step.issuer === step.key) return madeKey(state, step.key)
  return readRequest(encodePem('CERTIFICATE REQUEST', requestFor(state, step.key)))
}

/** A key that an earlier step made. */
export function madeKey({ keys }: CeremonyState, name: string): MadeKey {
  const key = keys.get(name)
  if (key === undefined) throw new Contradiction(`there is no key ${name}`)
  return key
}

function requestFor({ requests }: CeremonyState, name: string): Uint8Array {
  const request = requests.get(name)
  if (request === undefined) throw new Contradiction(`nobody asked for a certificate for ${name}`)
  return request
}

/** `trust-root/roles.json` of the plan's thresholds and the keys that were made. */
export function rolesText(state: CeremonyState, { piece }: RolesStep): string {
  const pieces = state.read.plan.make.filter((each) => each.what === 'tuf-key')
  const names = [...new Set([...piece.root.keys, ...piece.targets.keys])]
  const custodians = names.map((name) => {
    const { kind, spkiDer } = madeKey(state, name)
    if (kind !== 'P-256' && kind !== 'ed25519') throw new Contradiction(`TUF has no keys of kind ${kind}`)
    return { name, holder: pieces.find(({ key }) => key === name)?.holder ?? '', key: tufKeyOf({ kind, spkiDer }) }
  })
  const roleOf = ({ threshold, keys }: { threshold: number; keys: readonly string[] }) => ({
    threshold,
    custodians: keys,
  })
  return formatRoles({ custodians, root: roleOf(piece.root), targets: roleOf(piece.targets), online: [piece.online] })
}

/** SHA-256, hex. */
export function digestOf(bytes: Uint8Array): string {
  return hash('sha256', bytes)
}

/** What a key on a token does not show, of its attributes. Throws for what it must not be. */
export function checkAttributes(
  { key, backup }: Pick<KeyStep, 'key' | 'backup'>,
  attributes: TokenObject['attributes'],
  unproven: readonly string[],
): void {
  const judged = judgeAttributes(privateKeyWith(attributes))
  const violated = judged.findings.filter(({ verdict }) => verdict === 'VIOLATED')
  const how = violated.map(({ name, found, wanted }) => `${name} is ${found}, not ${wanted}`)
  if (violated.length > 0) throw new Contradiction(`the key ${key} is not what it must be: ${how.join(', ')}`)
  if (judged.backup !== backup) throw new Contradiction(`the key ${key} ${backup ? 'cannot' : 'can'} leave its token`)
  if (unproven.join() !== unprovenOf(attributes).join()) throw new Contradiction('what is unproven is told otherwise')
}

/** Names of the attributes that a token does not show to be as they should. */
export function unprovenOf(attributes: TokenObject['attributes']): string[] {
  const { findings } = judgeAttributes(privateKeyWith(attributes))
  return findings.filter(({ verdict }) => verdict === 'unproven').map(({ name }) => name)
}

function privateKeyWith(attributes: TokenObject['attributes']): TokenObject {
  return { class: 'private key', keyType: '', label: '', idHex: '', spkiDer: new Uint8Array(0), attributes }
}

function kindOf(spkiDer: Uint8Array): string {
  const key = parseSpki(spkiDer)
  return key.kind === 'ecdsa' ? key.curve : key.kind === 'rsa' ? `rsa-${key.bits}` : key.kind
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(Buffer.from(base64, 'base64'))
}

function wrong(line: number, how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_transcript_wrong', `line ${line} of the transcript is refused: ${how}`, { cause })
}
