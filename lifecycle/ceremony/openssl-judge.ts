/** A second opinion on a chain: OpenSSL's, where it is installed. Ours is the check that counts; this one shares no line with it. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AuthorityProfile } from '#hsm/ceremony'
import { encodePem } from '#x509'

export interface Judgement {
  /** `absent`: OpenSSL is not installed here. */
  readonly verdict: 'accepted' | 'refused' | 'absent'
  /** Its version, or why it refused. */
  readonly words: string
}

/** `openssl verify -x509_strict` of a chain, DER, the certificate first and the root last. */
export function judgeByOpenssl(chain: readonly Uint8Array[], profile: AuthorityProfile): Judgement {
  const version = opensslVersion()
  if (version === undefined) return { verdict: 'absent', words: 'openssl is not installed here' }
  const folder = mkdtempSync(join(tmpdir(), 'chancery-chain-'))
  try {
    const files = chain.map((der, at) => {
      const file = join(folder, `${at}.pem`)
      writeFileSync(file, encodePem('CERTIFICATE', der))
      return file
    })
    const [first = '', root = first] = [files[0], files.at(-1)]
    const purpose = profile === 'timestamp' ? ['-purpose', 'timestampsign'] : []
    // A root of today may begin a moment ahead of this machine's clock: validity was checked before.
    const options = ['verify', '-x509_strict', '-check_ss_sig', '-no_check_time', ...purpose, '-CAfile', root, first]
    const { status, stderr, stdout } = spawnSync('openssl', options, { encoding: 'utf8' })
    if (status === 0) return { verdict: 'accepted', words: version }
    return { verdict: 'refused', words: `${stdout}${stderr}`.replace(/\s+/g, ' ').trim() }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** What `openssl version` says; undefined where it is not installed. */
export function opensslVersion(): string | undefined {
  try {
    return execFileSync('openssl', ['version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}
