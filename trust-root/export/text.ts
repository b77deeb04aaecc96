/** Small things that the renderers share. */
import { formatJson } from '../trusted-root.ts'

export function jsonFile(value: unknown): Uint8Array {
  return Buffer.from(formatJson(value))
}

export function textFile(lines: readonly string[]): Uint8Array {
  return Buffer.from(`${lines.join('\n')}\n`)
}

/** A word of a POSIX shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

/** Files without those that are not there. */
export function filesOf(entries: readonly (readonly [string, Uint8Array | undefined])[]): Map<string, Uint8Array> {
  return new Map(entries.flatMap(([path, bytes]) => (bytes === undefined ? [] : [[path, bytes] as const])))
}
