/**
 * Approvals of a plan and statements of witnesses: a text of a few lines (`hsm/ceremony-statement.ts`) and a signature over
 * it by the person's own key, in one small file that may be mailed. Nothing in the file is believed before the signature
 * was verified with the key that the plan has for the person.
 */
import { spawnSync } from 'node:child_process'
import { createPublicKey, verify } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { type CeremonyStatement, formatStatement, parseStatement } from '#hsm'
import { parseSpki } from '#x509'
import { type AgentReach, withAdminAgent } from '../agents.ts'
import { minisignFault } from './minisign.ts'
import type { Person, ReadPlan } from './plan.ts'

/** Of SSH signatures (PROTOCOL.sshsig): one that was made for another purpose does not count here. */
export const SSH_NAMESPACE = 'chancery-ceremony'

/** What a file of an approval or a witness holds, and a line of the transcript. */
export const signedStatementSchema = z.strictObject({
  statement: z.string().max(1000),
  signature: z.discriminatedUnion('by', [
    z.strictObject({ by: z.literal('ssh'), armored: z.string().max(8000) }),
    z.strictObject({ by: z.literal('minisign'), file: z.string().max(2000) }),
    z.strictObject({ by: z.literal('pkcs11'), base64: z.base64().max(2000) }),
  ]),
})
export type SignedStatement = Readonly<z.infer<typeof signedStatementSchema>>

/** With what a person signs. */
export type StatementKey =
  | { readonly ssh: string }
  | { readonly minisign: string }
  | { readonly agent: AgentReach; readonly key: string }

/** What is to be said; who says it and when is added. */
export type Saying =
  | { readonly act: 'approve' }
  | { readonly act: 'witness'; readonly lines: number; readonly head: string }

/** Somebody of the plan by name. Throws `ceremony_approval_refused`. */
export function personNamed({ plan }: ReadPlan, name: string, act: Saying['act']): Person {
  const people = act === 'approve' ? plan.operators : [...plan.operators, ...plan.witnesses]
  const person = people.find((each) => each.name === name)
  if (person !== undefined) return person
  const known = people.map((each) => each.name).join(', ')
  throw refused(`${name} is no ${act === 'approve' ? 'operator' : 'operator or witness'} of this plan (${known})`)
}

/** Signs what `person` says, and verifies it with the key of the plan before it is given back. */
export async function signStatement(
  read: ReadPlan,
  name: string,
  saying: Saying,
  { key, now }: { readonly key: StatementKey; readonly now: Date },
): Promise<SignedStatement> {
  personNamed(read, name, saying.act)
  const head = { ceremony: read.plan.ceremony, planSha256: read.sha256, name }
  const signed =
    'agent' in key
      ? await signByAgent(key, { ...head, ...saying })
      : signByProgram(key, formatStatement({ ...head, ...saying, atMs: Math.floor(now.getTime() / 1000) * 1000 }))
  checkStatement(read, signed, saying.act)
  return signed
}

type Unsigned = Saying & { readonly ceremony: string; readonly planSha256: string; readonly name: string }

async function signByAgent(
  { agent, key }: Extract<StatementKey, { agent: AgentReach }>,
  { planSha256, ...rest }: Unsigned,
): Promise<SignedStatement> {
  const digest = fromHex(planSha256)
  const { ceremony, name } = rest
  const common = { key, ceremony, name, planSha256: digest }
  const request =
    rest.act === 'approve'
      ? ({ ...common, act: 'approve' } as const)
      : ({ ...common, act: 'witness', lines: rest.lines, head: fromHex(rest.head) } as const)
  const { statement, signature } = await withAdminAgent(agent, async (admin) => await admin.ceremonyStatement(request))
  return { statement, signature: { by: 'pkcs11', base64: Buffer.from(signature).toString('base64') } }
}

function signByProgram(
  key: { readonly ssh: string } | { readonly minisign: string },
  statement: string,
): SignedStatement {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-statement-'))
  try {
    const file = join(folder, 'statement')
    writeFileSync(file, statement)
    if ('ssh' in key) {
      runTool('ssh-keygen', ['-Y', 'sign', '-n', SSH_NAMESPACE, '-f', key.ssh, file])
      return { statement, signature: { by: 'ssh', armored: readFileSync(`${file}.sig`, 'utf8') } }
    }
    const comment = statement.split('\n').slice(1, 3).join(', ')
    const signature = join(folder, 'signature')
    runTool('minisign', ['-S', '-H', '-s', key.minisign, '-m', file, '-x', signature, '-t', comment])
    return { statement, signature: { by: 'minisign', file: readFileSync(signature, 'utf8') } }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A passphrase, or a touch of a FIDO key, is between the program and the person: our own output stays clean. */
function runTool(program: 'ssh-keygen' | 'minisign', words: readonly string[]): void {
  const { error, status } = spawnSync(program, words, { stdio: ['inherit', 'ignore', 'inherit'] })
  if (error !== undefined) throw missing(program, error)
  if (status !== 0) throw refused(`${program} did not sign (status ${status ?? 'none'})`)
}

/**
 * Reads a file of an approval or a witness. Throws `ceremony_approval_refused`; the signature is not verified here.
 */
export function readSignedStatement(text: string): SignedStatement {
  try {
    return signedStatementSchema.parse(JSON.parse(text))
  } catch (error) {
    throw refused('it is no file of an approval or a witness', error)
  }
}

/** The text of the file. */
export function formatSignedStatement(signed: SignedStatement): string {
  return `${JSON.stringify(signed, undefined, 2)}\n`
}

/**
 * Who says what, by a signature that verifies with the key that the plan has for them. Throws
 * `ceremony_approval_refused` for anything else: another plan, somebody unknown, another key.
 */
export function checkStatement<A extends Saying['act']>(
  read: ReadPlan,
  { statement, signature }: SignedStatement,
  act: A,
): Extract<CeremonyStatement, { act: A }> {
  const said = parseStatement(statement)
  if (said === undefined) throw refused('what was signed is no statement about a ceremony')
  if (said.act !== act) throw refused(`it says ${said.act}, not ${act}`)
  const person = personNamed(read, said.name, act)
  if (said.ceremony !== read.plan.ceremony || said.planSha256 !== read.sha256) {
    throw refused(
      `${said.name} signed another plan: ${said.ceremony}, sha256 ${said.planSha256}; this one is ${read.plan.ceremony}, sha256 ${read.sha256}`,
    )
  }
  const fault = signatureFault(person, Buffer.from(statement, 'utf8'), signature)
  if (fault !== undefined) throw refused(`the signature in the name of ${said.name} is refused: ${fault}`)
  return said as Extract<CeremonyStatement, { act: A }> // its act was just compared
}

function signatureFault(person: Person, message: Buffer, signature: SignedStatement['signature']): string | undefined {
  if (signature.by === 'ssh')
    return person.ssh === undefined ? otherKind(person) : sshFault(person.ssh, message, signature)
  if (signature.by === 'minisign') {
    return person.minisign === undefined ? otherKind(person) : minisignFault(person.minisign, message, signature.file)
  }
  return person.pkcs11 === undefined ? otherKind(person) : pkcs11Fault(person.pkcs11, message, signature.base64)
}

function otherKind({ ssh, minisign }: Person): string {
  return `the plan has a key of another kind (${ssh === undefined ? (minisign === undefined ? 'pkcs11' : 'minisign') : 'ssh'})`
}

function sshFault(publicKey: string, message: Buffer, { armored }: { readonly armored: string }): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-statement-'))
  try {
    const signers = join(folder, 'signers')
    writeFileSync(signers, `person namespaces="${SSH_NAMESPACE}" ${publicKey}\n`)
    writeFileSync(join(folder, 'signature'), armored)
    const words = ['-Y', 'verify', '-f', signers, '-I', 'person', '-n', SSH_NAMESPACE, '-s', join(folder, 'signature')]
    const { error, status, stderr, stdout } = spawnSync('ssh-keygen', words, { input: message, encoding: 'utf8' })
    if (error !== undefined) throw missing('ssh-keygen', error)
    return status === 0 ? undefined : `ssh-keygen: ${`${stdout}${stderr}`.trim().replace(/\s+/g, ' ')}`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** As the agent's keys sign: ECDSA in DER over the hash of the curve, RSA PKCS#1 v1.5 over SHA-256, Ed25519. */
function pkcs11Fault(spki: string, message: Buffer, signature: string): string | undefined {
  const der = Buffer.from(spki, 'base64')
  const key = parseSpki(der)
  const digest = key.kind === 'ed25519' ? null : key.kind === 'ecdsa' && key.curve === 'P-384' ? 'sha384' : 'sha256'
  const verifier = createPublicKey({ key: der, format: 'der', type: 'spki' })
  return verify(digest, message, verifier, Buffer.from(signature, 'base64')) ? undefined : 'it does not verify'
}

function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex, 'hex'))
}

function missing(program: string, cause: Error): OperatorError {
  return new OperatorError('ceremony_tool_missing', `${program} cannot be run here: ${cause.message}`, { cause })
}

function refused(how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_approval_refused', how, { cause })
}
