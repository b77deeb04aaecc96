/**
 * A POSIX (pax) archive of plain files, with their folders before them. Deterministic: no owner, no time. Names are ASCII.
 *
 * No file lies across a multiple of 32 KiB: policy-controller (pkg/tuf/repo.go, as of 0.15.1) reads each with one call,
 * which Go's inflate ends there, and takes the rest for zeros.
 */
export function tar(files: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const folders = new Set([...files.keys()].flatMap(foldersOf))
  const blocks = [...folders].toSorted((one, other) => (one < other ? -1 : 1)).map((name) => header(`${name}/`, 0, '5'))
  let at = blocks.length * BLOCK
  for (const [name, bytes] of files) {
    const heads = [...longName(name), header(name, bytes.length, '0')]
    const headed = at + heads.reduce((sum, { length }) => sum + length, 0)
    const added = [...filler(headed, bytes.length), ...heads, padded(bytes)]
    blocks.push(...added)
    at += added.reduce((sum, { length }) => sum + length, 0)
  }
  // Two blocks of zeros end it.
  return Buffer.concat([...blocks, new Uint8Array(2 * BLOCK)])
}

const WINDOW = 32 * 1024

/** A comment, as long as it takes for content of `length` that would begin at `at` to lie within one window. */
function filler(at: number, length: number): Uint8Array[] {
  if (length === 0 || Math.floor(at / WINDOW) === Math.floor((at + length - 1) / WINDOW)) return []
  const left = WINDOW - (at % WINDOW)
  // The comment has a header of its own.
  const size = (left > BLOCK ? left : left + WINDOW) - BLOCK
  const words = `${size} comment=`
  return [header('PaxHeaders/filler', size, 'x'), Buffer.from(`${words.padEnd(size - 1)}\n`)]
}

const BLOCK = 512

function foldersOf(name: string): string[] {
  const parts = name.split('/').slice(0, -1)
  return parts.map((_, at) => parts.slice(0, at + 1).join('/'))
}

function padded(bytes: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Math.ceil(bytes.length / BLOCK) * BLOCK)
  whole.set(bytes)
  return whole
}

/** What is longer than a header's field stands in a record before it: a target's name holds a digest and a name. */
function longName(path: string): Uint8Array[] {
  if (path.length <= NAME_BYTES) return []
  // The record's length counts its own digits.
  const rest = ` path=${path}\n`
  const length = [2, 3].map((digits) => rest.length + digits).find((sum) => String(sum).length === sum - rest.length)
  const record = Buffer.from(`${length}${rest}`)
  return [header('PaxHeaders/path', record.length, 'x'), padded(record)]
}

const NAME_BYTES = 100

function header(path: string, size: number, type: '0' | '5' | 'x'): Uint8Array {
  const block = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, digits: number) => block.write(value.toString(8).padStart(digits, '0'), at)
  block.write(path.slice(0, NAME_BYTES), 0)
  octal(type === '5' ? 0o755 : 0o644, 100, 7)
  octal(0, 108, 7)
  octal(0, 116, 7)
  octal(size, 124, 11)
  octal(0, 136, 11)
  // The checksum counts itself as blanks.
  block.write('        ', 148)
  block.write(type, 156)
  block.write('ustar\u000000', 257)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\u0000 `, 148)
  return block
}
