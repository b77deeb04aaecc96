/**
 * What needs a token's security officer (SO): making a token, and declaring a key-encryption key (KEK) trusted. A login
 * as SO ends every user's in the same process, and the SO's PIN is nothing that an agent should ever see: all of it is
 * done in a process of its own that ends with its answer. PINs are read there from their files, and are in no argument,
 * environment or log. docs/decisions/0020-wrapped-backup.md tells why the order of steps is what it is.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { HsmError, type HsmErrorCode } from './signing.ts'

/** Where the token is and who opens it. */
export interface OfficerToken {
  readonly modulePath: string
  readonly softhsmConf: string | undefined
  /** RFC 7512. */
  readonly uri: string
  /** User PIN, mode 0600. */
  readonly pinFile: string
  /** PIN of the security officer, mode 0600. */
  readonly soPinFile: string
}

/** Public half of the key under which a KEK travels to another token. */
export interface KekRequest {
  /** CKA_ID of the private half, hex. */
  readonly idHex: string
  /** RSA-3072: big-endian, hex. */
  readonly modulusHex: string
}

/** A KEK under the public key of the token that asked for it. */
export interface KekShare {
  /** CKA_ID of the KEK, the same on every token that has it. */
  readonly kekIdHex: string
  /** `idHex` of the request. */
  readonly requestIdHex: string
  /** RSA-OAEP, hex. */
  readonly wrappedHex: string
}

/** SHA-256 of the modulus in groups of four: what two people read to each other before a KEK is shared. */
export function requestFingerprint(request: KekRequest): string {
  const digest = createHash('sha256').update(Buffer.from(request.modulusHex, 'hex')).digest('hex')
  return (digest.match(/.{4}/g) ?? []).join(' ')
}

/** Makes a token of this label in the first slot that has none, with both PINs of the files. Rejects `HsmError`. */
export async function initializeToken(
  token: Omit<OfficerToken, 'uri'>,
  label: string,
): Promise<{ readonly serial: string }> {
  return (await ask({ act: 'init', token: { ...token, uri: '' }, label })) as { readonly serial: string }
}

/**
 * Makes a KEK on the token: trusted, not readable, for wrapping alone; it leaves the token only under a key that the SO
 * trusts. Rejects `refused` if there is one already.
 */
export async function makeKek(token: OfficerToken): Promise<{ readonly kekIdHex: string }> {
  return (await ask({ act: 'kekInit', token })) as { readonly kekIdHex: string }
}

/** Makes the key pair under which a KEK can travel to this token, and gives its public half. */
export async function requestKek(token: OfficerToken): Promise<KekRequest> {
  return (await ask({ act: 'kekRequest', token })) as KekRequest
}

/** The token's KEK under the requesting token's public key, which the SO trusts for this one use. */
export async function shareKek(token: OfficerToken, request: KekRequest): Promise<KekShare> {
  return (await ask({ act: 'kekShare', token, request })) as KekShare
}

/** Takes a shared KEK in, for wrapping and unwrapping, and destroys the key pair it travelled under. */
export async function acceptKek(token: OfficerToken, share: KekShare): Promise<{ readonly kekIdHex: string }> {
  return (await ask({ act: 'kekAccept', token, share })) as { readonly kekIdHex: string }
}

/** What the process is asked for, on its standard input. */
export type Task =
  | { readonly act: 'init'; readonly token: OfficerToken; readonly label: string }
  | { readonly act: 'kekInit' | 'kekRequest'; readonly token: OfficerToken }
  | { readonly act: 'kekShare'; readonly token: OfficerToken; readonly request: KekRequest }
  | { readonly act: 'kekAccept'; readonly token: OfficerToken; readonly share: KekShare }

/** What it says on its standard output. */
export type Answer = { readonly result: unknown } | { readonly error: readonly [HsmErrorCode, string, string] }

async function ask(task: Task): Promise<unknown> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./security-officer-process.ts', import.meta.url))], {
    env: {},
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  let said = ''
  let complained = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complained += text))
  child.stdin.on('error', () => undefined) // a child that could not start has told why
  child.stdin.end(JSON.stringify(task))
  await new Promise<void>((resolve) => {
    child.once('error', (error) => {
      complained = error.message
      resolve()
    })
    child.once('close', () => resolve())
  })
  if (said === '') {
    throw new HsmError(
      'unavailable',
      'officer_failed',
      complained.trim() || 'the process of the security officer ended',
    )
  }
  const answer = JSON.parse(said) as Answer // our own process answers
  if ('result' in answer) return answer.result
  const [code, reason, message] = answer.error
  throw new HsmError(code, reason, message)
}
