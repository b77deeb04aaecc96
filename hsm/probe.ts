/**
 * What a PKCS#11 module and its tokens can do, found out in a process of its own: a module that hangs or crashes ends
 * that process alone. Without a PIN only public facts are read; a trial makes, uses and destroys a key of each kind.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { ModuleSettings } from './module-settings.ts'
import type { Quirk } from './quirks.ts'
import { HsmError, type HsmErrorCode, type KeyKind } from './signing.ts'

export interface ProbeRequest {
  readonly module: ModuleSettings
  /** RFC 7512; every token of the module without it. */
  readonly uri?: string
  /** User PIN, mode 0600; logged in with once. */
  readonly pinFile?: string
  /** Kinds to make, sign with and destroy again; needs `pinFile` and `uri`. */
  readonly trial?: readonly KeyKind[]
}

export interface ProbedLibrary {
  readonly path: string
  readonly description: string
  readonly manufacturer: string
  readonly version: string
  readonly cryptoki: string
}

export interface ProbedMechanism {
  /** `CKM_…`, or hex. */
  readonly name: string
  readonly number: number
  readonly minKeySize: number
  readonly maxKeySize: number
}

export interface ProbedTrial {
  readonly kind: KeyKind
  /** Why it was refused, or empty. */
  readonly fault: string
  readonly generateMs: number
  /** Median of ten signatures, each verified. */
  readonly signMs: number
  /** Attributes that could not be read back as they should be. */
  readonly unproven: readonly string[]
}

export interface ProbedToken {
  readonly label: string
  readonly serial: string
  readonly model: string
  readonly manufacturer: string
  readonly hardwareVersion: string
  readonly firmwareVersion: string
  /** Warnings of the token about its PINs, in words. */
  readonly flags: readonly string[]
  readonly software: boolean
  readonly profile: { readonly name: string; readonly tested: boolean }
  /** `seen`: found just now; otherwise known of this kind of module. */
  readonly quirks: readonly { readonly quirk: Quirk; readonly meaning: string; readonly seen: boolean }[]
  /** -1: without limit, or not told. */
  readonly limits: {
    readonly sessions: number
    readonly pinLengthMin: number
    readonly pinLengthMax: number
    readonly freeMemory: number
  }
  /** By the mechanisms and key sizes that the token names. */
  readonly kinds: readonly { readonly kind: KeyKind; readonly offered: boolean }[]
  readonly mechanisms: readonly ProbedMechanism[]
  /** After a login. */
  readonly objects?: number
  readonly trials: readonly ProbedTrial[]
}

export interface Probed {
  readonly library: ProbedLibrary
  readonly tokens: readonly ProbedToken[]
}

/** RSA of 4096 bits takes a smart card a minute; a module that is silent for longer hangs. */
const LIMIT_MS = 180_000

/** Rejects `unavailable` (no module, no token, it hangs), `refused`, or `latched` if the token does not take the PIN. */
export async function probeModule(request: ProbeRequest): Promise<Probed> {
  const { NODE_COMPILE_CACHE: compiled } = process.env
  const child = spawn(process.execPath, [fileURLToPath(new URL('./probe-process.ts', import.meta.url))], {
    env: compiled === undefined ? {} : { NODE_COMPILE_CACHE: compiled },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS)
  let answer = ''
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    answer += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = `${said}${text}`.slice(-2000)
  })
  child.stdin.end(JSON.stringify(request))
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (...ended) => resolve(ended))
  })
  clearTimeout(timer)
  if (answer === '') {
    const how = signal === null ? `ended with ${String(code)}` : `was ended by ${signal}`
    throw new HsmError('unavailable', 'module_failed', `the process with the module ${how} ${said.trim()}`.trim())
  }
  return read(answer)
}

/** What the child wrote; it is our own code. */
function read(answer: string): Probed {
  const parsed = JSON.parse(answer) as Probed | { error: { code: HsmErrorCode; reason: string; message: string } }
  if (!('error' in parsed)) return parsed
  const { code, reason, message } = parsed.error
  throw new HsmError(code, reason, message)
}
