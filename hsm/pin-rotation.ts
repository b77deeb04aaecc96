/**
 * The change of a token's PIN, in an order that survives a kill at any point and never costs a second wrong attempt:
 *
 * 1. The new PIN is written beside the PIN file and synced.
 * 2. `intent` is made durable in the agent's state.
 * 3. C_SetPIN.
 * 4. `set` is made durable.
 * 5. Login with the new PIN; once it was accepted, the file beside takes the PIN file's place, and the mark goes.
 *
 * A start after a kill does step 5 alone by itself (`set`), or logs in with the old PIN (nothing, or `intent`). Only a kill
 * within step 3 leaves it open which PIN the token has: if it then refuses the old one it is latched like after any wrong
 * PIN, and the operator's next `token pin rotate` goes on at step 4 with the new one. The old one is not tried again.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import type { AgentState } from './agent-state.ts'
import { HsmError } from './signing.ts'

export type PinPhase = 'intent' | 'set'

export class PinRotation {
  readonly #state: AgentState
  readonly #token: string
  readonly #pinFile: string

  constructor(state: AgentState, token: string, pinFile: string) {
    this.#state = state
    this.#token = token
    this.#pinFile = pinFile
  }

  get phase(): PinPhase | undefined {
    const mark = this.#state.mark(this.#mark)
    return mark === 'intent' || mark === 'set' ? mark : undefined
  }

  /** Where the PIN is that the next login takes. */
  get loginFile(): string {
    return this.phase === 'set' && existsSync(this.#pending) ? this.#pending : this.#pinFile
  }

  /** A change that stopped within C_SetPIN and whose new PIN is still there. */
  get interrupted(): boolean {
    return this.phase === 'intent' && existsSync(this.#pending)
  }

  /** Steps 1 and 2; `account` runs in the same transaction. Throws `refused` where the new file cannot be written. */
  begin(newPin: string, account: () => void): void {
    writeDurably(this.#pending, `${newPin}\n`)
    this.#state.transaction(() => {
      this.#state.setMark(this.#mark, 'intent' satisfies PinPhase)
      account()
    })
  }

  /** Step 4; `account` runs in the same transaction. */
  changed(account: () => void = () => undefined): void {
    this.#state.transaction(() => {
      this.#state.setMark(this.#mark, 'set' satisfies PinPhase)
      account()
    })
  }

  /** C_SetPIN has certainly changed nothing. */
  abandon(): void {
    rmSync(this.#pending, { force: true })
    this.#forget()
  }

  /** The token took the PIN of `loginFile`, checked and not because it was logged in already. */
  accepted(): void {
    const { phase } = this
    if (phase === undefined) return
    if (phase === 'intent') {
      this.abandon()
      return
    }
    if (existsSync(this.#pending)) {
      renameSync(this.#pending, this.#pinFile)
      syncFolderOf(this.#pinFile)
    }
    this.#forget()
  }

  /** The token refused it: what to add to the latch's reason. To be called in the latch's transaction. */
  refused(): string {
    const { phase } = this
    if (phase === undefined) return ''
    if (phase === 'intent') {
      return `; a change of the PIN was interrupted: run chancery token pin rotate ${this.#token} again`
    }
    // Both are now known to be wrong or old; the next login takes the PIN file, which is the operator's to set right.
    this.#state.setMark(this.#mark, undefined)
    return `; the PIN of ${this.#pending} was tried, which is not the token's; the PIN file may hold the right one`
  }

  get #mark(): string {
    return `pinRotation:${this.#token}`
  }

  get #pending(): string {
    return `${this.#pinFile}.new`
  }

  #forget(): void {
    this.#state.transaction(() => this.#state.setMark(this.#mark, undefined))
  }
}

/** At most 24 characters of 6 bits. Throws `refused` for a token whose PINs are too short to be drawn at random. */
export function randomPin({ min, max }: { readonly min: number; readonly max: number }): string {
  const length = Math.max(min, Math.min(24, max))
  if (length < 8)
    throw new HsmError('refused', 'pin_too_short', `token takes PINs of ${max} characters at most; choose one`)
  return randomBytes(length).toString('base64url').slice(0, length)
}

/** Throws `refused` for a PIN that the token or a file of one line cannot hold. */
export function checkPin(pin: string, { min, max }: { readonly min: number; readonly max: number }): void {
  const bytes = Buffer.byteLength(pin)
  if (bytes < min || bytes > max) {
    throw new HsmError('refused', 'pin_length', `token takes PINs of ${min} to ${max} bytes, the new one has ${bytes}`)
  }
  if (!/^[^\p{Cc}]+$/u.test(pin)) throw new HsmError('refused', 'pin_length', 'PIN has a control character in it')
}

/** A file of mode 0600 that is on the disk, its name too, when this returns. */
function writeDurably(path: string, text: string): void {
  try {
    rmSync(path, { force: true })
    const file = openSync(path, 'wx', 0o600)
    try {
      writeSync(file, text)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    syncFolderOf(path)
  } catch (error) {
    throw new HsmError(
      'refused',
      'pin_file_not_writable',
      `the new PIN cannot be kept beside the PIN file: ${path} cannot be written; nothing was changed`,
      { cause: error },
    )
  }
}

function syncFolderOf(path: string): void {
  const folder = openSync(dirname(path), 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}
