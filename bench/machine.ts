/** What a figure means nothing without: where and of what it was taken. */
import { execFileSync } from 'node:child_process'
import { statfsSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'

export interface Machine {
  readonly machine: string
  readonly fileSystem: string
  readonly node: string
  /** With `+changes` if the tree is not the commit. */
  readonly commit: string
  readonly date: string
  readonly loadBefore: number
}

/** linux/magic.h, those that a temporary folder is likely to be on. */
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  0xef53: 'ext4',
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  0x01021994: 'tmpfs (no disk: fsync costs nothing)',
  0x794c7630: 'overlayfs',
}

export function describeMachine(folder: string): Machine {
  const all = cpus()
  const gib = (totalmem() / 2 ** 30).toFixed(0)
  const { type } = statfsSync(folder)
  return {
    machine: `${all.length} x ${all[0]?.model ?? 'unknown'}, ${gib} GiB, Linux ${release()}`,
    fileSystem: FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`,
    node: `${process.version}, OpenSSL ${process.versions.openssl}`,
    commit: commit(),
    date: new Date().toISOString(),
    loadBefore: loadavg()[1] ?? Number.NaN,
  }
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, {
      cwd: import.meta.dirname,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  try {
    return `${git('rev-parse', '--short', 'HEAD')}${git('status', '--porcelain') === '' ? '' : '+changes'}`
  } catch {
    return 'unknown: not a clone'
  }
}
