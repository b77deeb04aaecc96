/** Filesystems of a test's own, in the mount namespace of `scripts/isolated`: they are gone with it. */
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'

/** Mounts a filesystem in memory on `folder`, which is made. Needs no more than a mount namespace. */
export function mountMemory(folder: string, size = '2g'): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0700`, 'chancery-test', folder])
}

export function unmount(folder: string): void {
  execFileSync('umount', ['--lazy', folder])
}
