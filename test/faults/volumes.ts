/** Filesystems of a test's own, in the mount namespace of `scripts/isolated`: they are gone with it. */
import { execFileSync } from 'node:child_process'
import { closeSync, cpSync, ftruncateSync, mkdirSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** Mounts a filesystem in memory on `folder`, which is made; what was in it is copied. Needs only a mount namespace. */
export function mountMemory(folder: string, size = '2g'): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const kept = `${folder}.kept`
  cpSync(folder, kept, { recursive: true, preserveTimestamps: true })
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0700`, 'chancery-test', folder])
  cpSync(kept, folder, {
    recursive: true,
    preserveTimestamps: true,
    // A state that was moved on purpose has no former place.
    filter: (path) => !path.endsWith('place.json'),
  })
  rmSync(kept, { recursive: true })
}

export function remount(folder: string, how: 'ro' | 'rw'): void {
  execFileSync('mount', ['-o', `remount,${how}`, folder])
}

export function unmount(folder: string): void {
  execFileSync('umount', ['--lazy', folder])
}

/** Leaves this much of a volume free, with a file that grows and shrinks as needed. */
export function leaveFree(folder: string, bytes: number): void {
  const file = openSync(join(folder, '.filler'), 'a+')
  try {
    ftruncateSync(file, 0)
    const { bavail, bsize } = statfsSync(folder)
    const chunk = Buffer.alloc(64 * 1024)
    for (let left = bavail * bsize - bytes; left > 0; ) left -= writeSync(file, chunk, 0, Math.min(left, chunk.length))
  } catch (error) {
    // Somebody else took the last of it.
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error
  } finally {
    closeSync(file)
  }
}

/** Takes the file of `leaveFree` away. */
export function makeRoom(folder: string): void {
  rmSync(join(folder, '.filler'), { force: true })
}
