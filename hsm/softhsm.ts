/**
 * Tokens for development: SoftHSM in a folder of its own, with random PINs that are in no argument list, environment or
 * log. The module is loaded in a short-lived process; whoever calls `createSoftTokens` never has it in its memory.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HsmError } from './signing.ts'

/** Where Debian and Ubuntu put it, then where Fedora and a build from source do. */
const MODULE_PATHS = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
] as const

export interface SoftTokens {
  readonly modulePath: string
  /** `softhsm2.conf`, for `tokens.<name>.softhsmConf` of the agent's configuration. */
  readonly confPath: string
  readonly tokens: readonly { readonly label: string; readonly pinFile: string; readonly uri: string }[]
}

/** The library of SoftHSM on this machine; throws `unavailable`. */
export function findSoftHsm(): string {
  const found = MODULE_PATHS.find((path) => existsSync(path))
  if (found !== undefined) return found
  throw new HsmError('unavailable', 'no_softhsm', 'SoftHSM is not installed (Debian, Ubuntu: apt-get install softhsm2)')
}

/**
 * Makes what is missing of `softhsm2.conf`, `tokens/` and, for each label, a token with `<label>.pin` (user) and
 * `<label>.so-pin` (security officer), files of mode 0600. Run again it changes nothing. Rejects `unavailable`.
 */
export async function createSoftTokens(options: {
  readonly folder: string
  readonly labels: readonly string[]
  readonly modulePath?: string
}): Promise<SoftTokens> {
  const folder = resolve(options.folder)
  const modulePath = options.modulePath ?? findSoftHsm()
  const said = await run([modulePath, folder, ...options.labels])
  if (said !== '') throw new HsmError('unavailable', 'token_not_made', said)
  return {
    modulePath,
    confPath: join(folder, 'softhsm2.conf'),
    tokens: options.labels.map((label) => ({
      label,
      pinFile: join(folder, `${label}.pin`),
      uri: `pkcs11:token=${label}`,
    })),
  }
}

/** What the process said on standard error, empty if it succeeded. */
async function run(args: readonly string[]): Promise<string> {
  return await new Promise((done) => {
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), ...args], {
      env: {},
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
    child.once('error', (error) => done(error.message))
    child.once('close', (code) => done(code === 0 ? '' : said.trim() || `token maker ended with ${String(code)}`))
  })
}

/** The short-lived process. */
async function main(modulePath: string, folder: string, labels: readonly string[]): Promise<void> {
  const confPath = join(folder, 'softhsm2.conf')
  const tokenFolder = join(folder, 'tokens')
  mkdirSync(tokenFolder, { recursive: true, mode: 0o700 })
  if (!existsSync(confPath)) {
    const lines = [`directories.tokendir = ${tokenFolder}`, 'objectstore.backend = file', 'log.level = ERROR']
    writeFileSync(confPath, `${lines.join('\n')}\n`, { mode: 0o600 })
  }
  process.env['SOFTHSM2_CONF'] = confPath
  const { default: pkcs11js } = await import('pkcs11js')
  const { calling, CKF } = await import('./pkcs11.ts')
  const { initializeFreeSlot } = await import('./token-initialization.ts')
  const module = new pkcs11js.PKCS11()
  module.load(modulePath)
  calling('C_Initialize', () => module.C_Initialize({ flags: CKF.OS_LOCKING_OK }))
  for (const label of labels) {
    if (!/^[a-z0-9-]{1,32}$/.test(label))
      throw new Error(`token label ${JSON.stringify(label)} is not 1 to 32 of a-z 0-9 -`)
    try {
      initializeFreeSlot(module, label, () => ({
        soPin: freshPin(join(folder, `${label}.so-pin`)),
        pin: freshPin(join(folder, `${label}.pin`)),
      }))
    } catch (error) {
      if (!(error instanceof HsmError) || error.reason !== 'token_exists') throw error
    }
  }
}

/** 24 characters of 6 bits. Written before the token has it: a PIN that was never stored would lose the token's keys. */
function freshPin(path: string): string {
  if (existsSync(path)) return readFileSync(path, 'utf8').trim()
  const pin = randomBytes(18).toString('base64url')
  writeFileSync(path, `${pin}\n`, { mode: 0o600, flag: 'wx', flush: true })
  return pin
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [modulePath = '', folder = '', ...labels] = process.argv.slice(2)
  main(modulePath, folder, labels).catch((error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : 'failed'}\n`)
    process.exitCode = 1
  })
}
