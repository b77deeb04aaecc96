/**
 * What a disk holds after the power was lost. Fed with the records of `disk-shim.c` it keeps, for each file and each
 * folder, what was synced and what was changed since; `materialise` writes one of the states that a disk may then be in:
 *
 * - of a file: all that was written before its last sync, and of what was written later nothing, all, the first part, or
 *   each sector or page as it was at a moment of its own (so writes are torn and out of order, and the length is old or new);
 * - of a folder: the names as at its last sync, and of the changes since (create, rename, remove) nothing, all, the first
 *   part, or any that do not rest on one that is missing. A rename happens whole or not at all.
 *
 * This is weaker than what ext4 or xfs promise: there a sync of a new file also keeps its name.
 */
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { DiskRecord } from './disk-shim.ts'

/** What a cut does with changes that were not synced. */
export type Fate = 'nothing' | 'everything' | 'beginning' | 'torn'

export const FATES: readonly Fate[] = ['nothing', 'everything', 'beginning', 'torn']

/** A number from 0 up to, and without, `below`. */
export type Draw = (below: number) => number

type Change = { readonly at: number; readonly bytes: Buffer } | { readonly length: number }

interface File {
  readonly kind: 'file'
  synced: Buffer
  changes: Change[]
  /** Of these those that a failed sync has marked as clean: who reads sees them, and no later sync writes them. */
  readonly dropped: Set<Change>
}

interface Link {
  readonly kind: 'symlink'
  readonly target: string
}

interface Folder {
  readonly kind: 'folder'
  readonly synced: Map<string, Node>
  /** Names as they are now. */
  readonly present: Map<string, Node>
  changes: { readonly name: string; readonly node: Node | undefined }[][]
}

type Node = File | Link | Folder

export class Disk {
  readonly #root: string
  readonly #fixed: readonly string[]
  readonly #tree: Folder
  readonly #files = new Map<bigint, File>()

  /**
   * The tree below `root` as it lies there now counts as synced. Of other folders nothing is kept. What lies in `fixed`
   * (below `root`) stays as it is: SoftHSM writes by stdio, which the shim does not see.
   */
  constructor(root: string, fixed: readonly string[] = []) {
    this.#root = root
    this.#fixed = fixed.map((folder) => join(root, folder))
    this.#tree = this.#read(root)
  }

  /** Throws for a record that does not fit what was recorded before: then the shim has missed something. */
  apply(record: DiskRecord): void {
    const { type, path, inode, bytes } = record
    if (!this.#holds(path)) return
    switch (type) {
      case 'create': {
        const file: File = { kind: 'file', synced: Buffer.alloc(0), changes: [], dropped: new Set() }
        this.#files.set(inode, file)
        this.#change(dirname(path), [{ name: basename(path), node: file }])
        return
      }
      case 'write':
        this.#file(record).changes.push({ at: record.offset, bytes: bytes ?? Buffer.alloc(0) })
        return
      case 'truncate':
        this.#file(record).changes.push({ length: record.offset })
        return
      case 'sync': {
        const file = this.#file(record)
        file.synced = bytes ?? whole({ ...file, changes: file.changes.filter((change) => !file.dropped.has(change)) })
        file.changes = []
        file.dropped.clear()
        return
      }
      case 'failed-sync': {
        const file = this.#file(record)
        for (const change of file.changes) file.dropped.add(change)
        return
      }
      case 'sync-folder': {
        const folder = this.#folder(path)
        for (const change of folder.changes.flat()) setName(folder.synced, change)
        folder.changes = []
        return
      }
      case 'mkdir':
        this.#change(dirname(path), [
          { name: basename(path), node: { kind: 'folder', synced: new Map(), present: new Map(), changes: [] } },
        ])
        return
      case 'symlink':
        this.#change(dirname(path), [
          { name: basename(path), node: { kind: 'symlink', target: bytes?.toString() ?? '' } },
        ])
        return
      case 'link': {
        const to = bytes?.toString() ?? ''
        this.#change(dirname(to), [{ name: basename(to), node: this.#node(path) }])
        return
      }
      case 'rename': {
        const to = bytes?.toString() ?? ''
        const node = this.#node(path)
        if (dirname(to) !== dirname(path)) throw new Error(`${path} is renamed into another folder`)
        this.#change(dirname(path), [
          { name: basename(path), node: undefined },
          { name: basename(to), node },
        ])
        return
      }
      case 'remove':
        this.#change(dirname(path), [{ name: basename(path), node: undefined }])
    }
  }

  /** Writes one possible state into `into`, which is made. */
  materialise(into: string, fate: Fate, draw: Draw): void {
    const sector = draw(2) === 0 ? 512 : 4096
    // A file has one content, whatever names it has.
    const contents = new Map<File, Buffer>()
    const write = (folder: Folder, path: string): void => {
      mkdirSync(path, { recursive: true, mode: 0o700 })
      for (const [name, node] of namesAfter(folder, fate, draw)) {
        const at = join(path, name)
        if (node.kind === 'folder') write(node, at)
        else if (node.kind === 'symlink') symlinkSync(node.target, at)
        else {
          const content = contents.get(node) ?? contentAfter(node, { fate, draw, sector })
          contents.set(node, content)
          writeFileSync(at, content, { mode: 0o600 })
        }
      }
    }
    write(this.#tree, into)
  }

  #holds(path: string): boolean {
    if (this.#fixed.some((folder) => path.startsWith(`${folder}/`))) return false
    return path.startsWith(`${this.#root}/`) || path === this.#root
  }

  #read(path: string): Folder {
    const folder: Folder = { kind: 'folder', synced: new Map(), present: new Map(), changes: [] }
    for (const name of readdirSync(path)) {
      const at = join(path, name)
      const found = lstatSync(at, { bigint: true })
      let node: Node
      if (found.isDirectory()) node = this.#read(at)
      else if (found.isSymbolicLink()) node = { kind: 'symlink', target: readlinkSync(at) }
      else if (found.isFile()) {
        const identity = identityOf(found)
        const known = this.#files.get(identity)
        node = known ?? { kind: 'file', synced: readFileSync(at), changes: [], dropped: new Set() }
        this.#files.set(identity, node)
      } else continue
      folder.synced.set(name, node)
      folder.present.set(name, node)
    }
    return folder
  }

  #file({ inode, path }: DiskRecord): File {
    const file = this.#files.get(inode)
    if (file === undefined) throw new Error(`${path} is written and was never seen to be made`)
    return file
  }

  #node(path: string): Node {
    if (path === this.#root) return this.#tree
    const node = this.#folder(dirname(path)).present.get(basename(path))
    if (node === undefined) throw new Error(`${path} is used and was never seen to be made`)
    return node
  }

  #folder(path: string): Folder {
    const node = this.#node(path)
    if (node.kind !== 'folder') throw new Error(`${path} is no folder`)
    return node
  }

  #change(path: string, change: Folder['changes'][number]): void {
    const folder = this.#folder(path)
    folder.changes.push(change)
    for (const one of change) setName(folder.present, one)
  }
}

/** As in disk-shim.c. */
function identityOf({ ino, dev }: { readonly ino: bigint; readonly dev: bigint }): bigint {
  return BigInt.asUintN(64, ino ^ (dev << 44n))
}

function setName(names: Map<string, Node>, { name, node }: Folder['changes'][number][number]): void {
  if (node === undefined) names.delete(name)
  else names.set(name, node)
}

function namesAfter({ synced, changes }: Folder, fate: Fate, draw: Draw): Map<string, Node> {
  const names = new Map(synced)
  const kept = fate === 'nothing' ? 0 : fate === 'beginning' ? draw(changes.length + 1) : changes.length
  const missing = new Set<string>()
  for (const change of changes.slice(0, kept)) {
    const rests = change.some(({ name }) => missing.has(name))
    if (rests || (fate === 'torn' && draw(2) === 0)) for (const { name } of change) missing.add(name)
    else for (const one of change) setName(names, one)
  }
  return names
}

function whole({ synced, changes }: File): Buffer {
  const image = new Image(synced)
  for (const change of changes) image.apply(change)
  return image.content()
}

function contentAfter(file: File, { fate, draw, sector }: { fate: Fate; draw: Draw; sector: number }): Buffer {
  const { synced, changes } = file
  if (fate === 'nothing' || changes.length === 0) return synced
  if (fate === 'everything') return whole(file)
  if (fate === 'beginning') return whole({ ...file, changes: changes.slice(0, draw(changes.length + 1)) })
  // Each sector shows the changes before a moment of its own; so does the length.
  const moments = new Map<number, number>()
  const momentOf = (unit: number): number => {
    const known = moments.get(unit)
    if (known !== undefined) return known
    const drawn = draw(changes.length + 1)
    moments.set(unit, drawn)
    return drawn
  }
  const lengthMoment = draw(changes.length + 1)
  let length = synced.length
  const image = new Image(synced)
  changes.forEach((change, number) => {
    const [from, to] = 'bytes' in change ? [change.at, change.at + change.bytes.length] : [change.length, image.length]
    for (let start = from; start < to; ) {
      const unit = Math.floor(start / sector)
      const end = Math.min(to, (unit + 1) * sector)
      if (number < momentOf(unit)) {
        const bytes = 'bytes' in change ? change.bytes.subarray(start - from, end - from) : Buffer.alloc(end - start)
        image.apply({ at: start, bytes })
      }
      start = end
    }
    if (number < lengthMoment) length = 'bytes' in change ? Math.max(length, to) : change.length
  })
  image.apply({ length })
  return image.content()
}

/** Bytes that grow and shrink; what was never written is zero. */
class Image {
  #bytes: Buffer
  length: number

  constructor(start: Buffer) {
    this.#bytes = Buffer.from(start)
    this.length = start.length
  }

  apply(change: Change): void {
    if ('length' in change) {
      if (change.length < this.length) this.#bytes.fill(0, change.length, this.length)
      this.#reserve(change.length)
      this.length = change.length
      return
    }
    const end = change.at + change.bytes.length
    this.#reserve(end)
    change.bytes.copy(this.#bytes, change.at)
    this.length = Math.max(this.length, end)
  }

  content(): Buffer {
    return this.#bytes.subarray(0, this.length)
  }

  #reserve(length: number): void {
    if (length <= this.#bytes.length) return
    const larger = Buffer.alloc(Math.max(length, this.#bytes.length * 2))
    this.#bytes.copy(larger)
    this.#bytes = larger
  }
}
