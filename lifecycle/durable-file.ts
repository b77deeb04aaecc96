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
 * returns. Makes its folder. A crash leaves at most a `.part` file beside it. `readersOf`: a file, this one or
 * another, whose owner, group and mode it gets, since another user reads it; `ownerOf`: one whose owner alone may read it.
 * Throws where they cannot be given to it.
 */
export function replaceDurably(
  path: string,
  text: string,
  { readersOf, ownerOf }: { readonly readersOf?: string; readonly ownerOf?: string } = {},
): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const like = readersOf ?? ownerOf
  const before = like === undefined ? undefined : statSync(like, { throwIfNoEntry: false })
  const part = openSync(`${path}.part`, 'w', 0o600)
  try {
    if (before !== undefined) {
      const { uid, gid, mode } = before
      if (uid !== process.geteuid?.() || gid !== process.getegid?.()) fchownSync(part, uid, gid)
      if (readersOf !== undefined) fchmodSync(part, mode & 0o7777)
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
