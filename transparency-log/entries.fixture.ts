import { hash } from 'node:crypto'
import type { PendingEntry } from './log.ts'

/** An entry whose leaf is this text and that carries these search keys. */
export function textEntry(text: string, searchKeys: readonly string[] = [`text:${text}`]): PendingEntry {
  const leaf = new TextEncoder().encode(text)
  return {
    dedupeKey: new Uint8Array(hash('sha256', leaf, 'buffer')),
    at: () => ({ leaf, tileData: leaf, searchKeys }),
  }
}
