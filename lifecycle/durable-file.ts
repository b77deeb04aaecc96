import {
  closeSync,
  fchmodSync,
  fchownSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'

/**
 * Replaces a file (mode 0600) atomically: a reader sees the old text or the new one, which is on the disk when this
 * returns. Makes its folder. A crash leaves at most a `.part` file beside it. `sameReaders`: a file that is there keeps its
 * owner, group and mode, since another user reads it; throws where they cannot be given to it.
 */
export function replaceDurably(path: string, text: string, { sameReaders = false } = {}): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const before = sameReaders ? statSync(path, { throwIfNoEntry: false }) : undefined
  const part = openSync(`${path}.part`, 'w', 0o600)
  try {
    if (before !== undefined) {
      const { uid, gid, mode } = before
      if (uid !== process.getuid?.() || gid !== process.getgid?.()) fchownSync(part, uid, gid)
      fchmodSync(part, mode & 0o7777)
    }
    writeSync(part, text)
    fsyncSync(part)
  } finally {
    closeSync(part)
  }
  renameSync(`${path}.part`, path)
  syncFolder(dirname(path))
}

/** Makes the names in a folder durable: what was renamed or removed there stays so. */
export function syncFolder(path: string): void {
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}
