/** cosign as a second judge of a canary: where it is installed, and never required. */
import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { CANARY_ARTIFACT } from './canary-bundle.ts'

const run = promisify(execFile)

/** The configured program, or the `cosign` of PATH, or undefined. Rejects if one is configured and not to be run. */
export async function findCosign(configured: string | undefined): Promise<string | undefined> {
  for (const candidate of configured === undefined ? inPath() : [configured]) {
    const usable = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    )
    if (usable) return candidate
  }
  if (configured !== undefined) throw new Error(`trustRoot.cosign: ${configured} cannot be run`)
  return undefined
}

function inPath(): string[] {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .filter((folder) => folder.startsWith('/'))
    .map((folder) => join(folder, 'cosign'))
}

/** It starts in a fifth of a second; a slow disk and a busy machine are allowed for. */
const TIMEOUT_MS = 60_000

/**
 * `cosign verify-blob` on files alone: nothing of this machine's settings, and no network, has a say. True if it verifies,
 * false if this cosign is too old to be asked. Rejects with what cosign said.
 */
export async function verifyWithCosign(
  cosign: string,
  {
    bundle,
    trustedRoot,
    identity,
  }: { readonly bundle: unknown; readonly trustedRoot: unknown; readonly identity: string },
): Promise<boolean> {
  const home = await mkdtemp(join(tmpdir(), 'chancery-canary-'))
  const file = async (name: string, content: string | Uint8Array) => {
    await writeFile(join(home, name), content)
    return join(home, name)
  }
  try {
    const flags = {
      '--bundle': await file('bundle.json', JSON.stringify(bundle)),
      '--trusted-root': await file('trusted_root.json', JSON.stringify(trustedRoot)),
      '--certificate-identity': identity,
      '--certificate-oidc-issuer': identity,
    }
    const words = [
      'verify-blob',
      // The default of cosign 3, which 2 must be told.
      '--new-bundle-format',
      // An entry of Rekor v1 has a time of its own; so the timestamp is looked at, too.
      ...(hasTimestamp(bundle) ? ['--use-signed-timestamps'] : []),
      ...Object.entries(flags).flat(),
      await file('artifact', CANARY_ARTIFACT),
    ]
    await run(cosign, words, { cwd: home, env: { HOME: home, TUF_ROOT: join(home, 'tuf') }, timeout: TIMEOUT_MS })
    return true
  } catch (cause) {
    const said = saidBy(cause)
    // Before 2.4 there is no --trusted-root.
    if (/unknown flag/.test(said)) return false
    throw new Error(`cosign says: ${said}`, { cause })
  } finally {
    await rm(home, { recursive: true, force: true })
  }
}

function hasTimestamp(bundle: unknown): boolean {
  const { verificationMaterial } = bundle as {
    verificationMaterial: { timestampVerificationData: { rfc3161Timestamps: readonly unknown[] } }
  } // our own made it
  return verificationMaterial.timestampVerificationData.rfc3161Timestamps.length > 0
}

function saidBy(cause: unknown): string {
  const { stderr, message } = cause as { readonly stderr?: string; readonly message?: string } // of execFile
  const lines = (stderr ?? '').split('\n').filter((line) => line.trim() !== '')
  return lines.findLast((line) => /^error/i.test(line)) ?? lines.at(-1) ?? message ?? 'nothing'
}
