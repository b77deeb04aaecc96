/** Builds `disk-shim.c`, and gives the environment in which a server and every agent that it starts run on it. */
import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

/** What the disk does to calls on paths that begin with `below`; without an entry it is as it should be. */
export interface DiskFault {
  readonly below: string
  /** fsync and fdatasync fail with it. */
  readonly syncError?: 'EIO'
  /** Whatever changes a file or a folder fails with it. */
  readonly writeError?: 'EROFS' | 'EIO' | 'ENOSPC'
  /** fsync and fdatasync take that much longer. */
  readonly syncMs?: number
}

export interface DiskShim {
  /** For `serve`: the server and all that it starts run on the shim. */
  readonly environment: Readonly<Record<string, string>>
  /** For a process that starts no other of ours. */
  readonly ownEnvironment: Readonly<Record<string, string>>
  readonly traceFile: string
  /** Takes effect at once in all processes. */
  set(fault: DiskFault | undefined): void
  /** Since `set`. */
  counted(): { readonly failed: number; readonly syncsAfterFailure: number }
  /** Puts a line of the test's own into the trace, as if it had been written to `path`. */
  mark(path: string, text: string): void
  close(): void
}

/** `struct control` of disk-shim.c: sixteen integers and a path. */
const INTEGERS = 16
const CONTROL_LENGTH = INTEGERS * 4 + 4096

/**
 * `folders` are what is watched. With `trace` every change of theirs is recorded; with `content` each sync of a small
 * file records what is in it, for files that are written by libraries that the shim does not see write.
 */
export function buildDiskShim(
  scratch: string,
  { folders, trace = false, content = false }: { folders: readonly string[]; trace?: boolean; content?: boolean },
): DiskShim {
  mkdirSync(scratch, { recursive: true })
  const library = join(scratch, 'disk-shim.so')
  const source = join(import.meta.dirname, 'disk-shim.c')
  execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Werror', '-o', library, source, '-ldl'])
  const controlFile = join(scratch, 'disk-control')
  const traceFile = join(scratch, 'disk-trace')
  writeFileSync(traceFile, '')
  const control = openSync(controlFile, 'w+')
  ftruncateSync(control, CONTROL_LENGTH)
  const ownEnvironment = {
    LD_PRELOAD: library,
    DISK_SHIM_FOLDERS: folders.join(':'),
    DISK_SHIM_CONTROL: controlFile,
    ...(trace ? { DISK_SHIM_TRACE: traceFile } : {}),
    ...(content ? { DISK_SHIM_CONTENT: '1' } : {}),
  }
  return {
    ownEnvironment,
    environment: { ...ownEnvironment, NODE_OPTIONS: `--import ${throughWrapper(scratch, ownEnvironment)}` },
    traceFile,
    set: (fault) => {
      const bytes = Buffer.alloc(CONTROL_LENGTH)
      bytes.writeInt32LE(fault?.syncError === undefined ? 0 : constants.errno[fault.syncError], 0)
      bytes.writeInt32LE(fault?.writeError === undefined ? 0 : constants.errno[fault.writeError], 4)
      bytes.writeInt32LE(fault?.syncMs ?? 0, 8)
      bytes.write(fault?.below ?? '', INTEGERS * 4)
      writeSync(control, bytes, 0, bytes.length, 0)
    },
    counted: () => {
      const bytes = Buffer.alloc(INTEGERS * 4)
      readSync(control, bytes, 0, bytes.length, 0)
      return { failed: bytes.readInt32LE(12), syncsAfterFailure: bytes.readInt32LE(16) }
    },
    mark: (path, text) => {
      const head = Buffer.alloc(HEADER)
      const [pathBytes, textBytes] = [Buffer.from(path), Buffer.from(text)]
      head.writeUInt32LE(MAGIC, 0)
      head.writeUInt32LE('W'.charCodeAt(0), 4)
      head.writeUInt32LE(pathBytes.length, 8)
      head.writeUInt32LE(textBytes.length, 12)
      appendFileSync(traceFile, Buffer.concat([head, pathBytes, textBytes]))
    },
    close: () => closeSync(control),
  }
}

/** A spawned agent gets no environment from its server; this makes the server start it through a script that sets one. */
function throughWrapper(scratch: string, environment: Readonly<Record<string, string>>): string {
  const wrapper = join(scratch, 'node-on-shim')
  const settings = Object.entries(environment).map(([name, value]) => `${name}='${value}'`)
  writeFileSync(wrapper, `#!/bin/sh\nexec env ${settings.join(' ')} '${process.execPath}' "$@"\n`, { mode: 0o755 })
  const preload = join(scratch, 'use-wrapper.mjs')
  writeFileSync(preload, `process.execPath = ${JSON.stringify(wrapper)}\n`)
  return pathToFileURL(preload).href
}

/** The records of a trace, in their order. */
export interface DiskRecord {
  readonly type:
    | 'write'
    | 'truncate'
    | 'sync'
    | 'failed-sync'
    | 'sync-folder'
    | 'create'
    | 'rename'
    | 'link'
    | 'symlink'
    | 'mkdir'
    | 'remove'
  readonly inode: bigint
  /** Of a write; the new length of a truncation. */
  readonly offset: number
  readonly path: string
  /** What was written; for a sync what is in the file, if that was recorded; for rename, link and symlink the other name. */
  readonly bytes: Buffer | undefined
  readonly process: number
}

const HEADER = 40
const MAGIC = 0x4b534944
const TYPES: Readonly<Record<string, DiskRecord['type']>> = {
  W: 'write',
  T: 'truncate',
  S: 'sync',
  D: 'sync-folder',
  C: 'create',
  R: 'rename',
  L: 'link',
  Y: 'symlink',
  K: 'mkdir',
  F: 'failed-sync',
  U: 'remove',
}

export function readTrace(file: string): DiskRecord[] {
  const all = readFileSync(file)
  const records: DiskRecord[] = []
  for (let at = 0; at < all.length; ) {
    if (all.readUInt32LE(at) !== MAGIC) throw new Error(`no record at ${at} of the trace`)
    const type = TYPES[String.fromCharCode(all.readUInt32LE(at + 4))]
    const pathLength = all.readUInt32LE(at + 8)
    const dataLength = all.readUInt32LE(at + 12)
    if (type === undefined) throw new Error(`an unknown record at ${at} of the trace`)
    const end = at + HEADER + pathLength + dataLength
    const offset = Number(all.readBigUInt64LE(at + 24))
    records.push({
      type,
      inode: all.readBigUInt64LE(at + 16),
      offset,
      path: all.toString('utf8', at + HEADER, at + HEADER + pathLength),
      // A sync says in the place of an offset whether it has the content.
      bytes: type === 'sync' && offset === 0 ? undefined : all.subarray(at + HEADER + pathLength, end),
      process: all.readInt32LE(at + 32),
    })
    at = end
  }
  return records
}
