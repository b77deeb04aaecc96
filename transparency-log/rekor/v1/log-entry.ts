import type { Log, ProvenEntry } from '../../log.ts'
import { encodeBase64, encodeHex } from '../base64.ts'
import { entryIdOf, type TreeId } from './ids.ts'

/** A LogEntry of the interface: one member, named by the entry's id. */
export type LogEntry = Readonly<Record<string, LogEntryValue>>

interface LogEntryValue {
  readonly attestation?: { readonly data: string }
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: {
    readonly inclusionProof: {
      readonly checkpoint: string
      readonly hashes: readonly string[]
      readonly logIndex: number
      readonly rootHash: string
      readonly treeSize: number
    }
    readonly signedEntryTimestamp: string
  }
}

/**
 * An entry as v1 answers it. Proof, root, size and checkpoint are of one sealed head. `logIndex` counts through all
 * shards, that of the proof in its own tree. Attestations belong into reads only, not into the reply to a submission.
 */
export function renderLogEntry(
  { log, tree, offset }: { readonly log: Pick<Log, 'logId'>; readonly tree: TreeId; readonly offset: number },
  { entry, head, inclusionProof }: ProvenEntry,
  options: { readonly attestation: boolean },
): LogEntry {
  return {
    [entryIdOf(tree, entry.leafHash)]: {
      ...(options.attestation && entry.attachment !== undefined
        ? { attestation: { data: encodeBase64(entry.attachment) } }
        : {}),
      body: encodeBase64(entry.leaf),
      integratedTime: integratedTimeSeconds(entry.timestampMs),
      logID: encodeHex(log.logId),
      logIndex: offset + entry.index,
      verification: {
        inclusionProof: {
          checkpoint: head.note,
          hashes: inclusionProof.map(encodeHex),
          logIndex: entry.index,
          rootHash: encodeHex(head.rootHash),
          treeSize: head.size,
        },
        signedEntryTimestamp: encodeBase64(entry.entrySignature),
      },
    },
  }
}

/** Whole seconds, as the signed entry timestamp has them. */
export function integratedTimeSeconds(timestampMs: number): number {
  return Math.floor(timestampMs / 1000)
}
