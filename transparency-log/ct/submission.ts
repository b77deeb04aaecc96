/** How a checked chain becomes an entry of the CT log, and an entry becomes a signed certificate timestamp. */
import { hash } from 'node:crypto'
import type { SigningAgent } from '#hsm'
import { concatBytes, merkleTreeLeaf, type SctEntry, serializeSct } from '#x509'
import { type Log, LogError, type PendingEntry, type SignEntry } from '../log.ts'
import { type AcceptedRoots, type CheckedChain, checkChain, isSameEntry } from './chain.ts'
import { CtError } from './errors.ts'
import { parseLeaf } from './leaf.ts'

/** SCTs of this log carry no extensions: the leaf's index is no part of the promise. */
const NO_EXTENSIONS = new Uint8Array(0)

/** Adds a checked chain and returns its serialised SCT; the same chain gets the same SCT for ever. */
export async function submit(log: Log, chain: CheckedChain): Promise<Uint8Array> {
  const { index } = await log.add(pendingEntry(chain))
  const entry = await log.entry(index)
  if (entry === undefined) throw new LogError('unavailable', `entry ${index} was sealed and cannot be read`)
  // Rolled forward from a copy of the log (docs/backup.md), and too old for the agent to sign it once more.
  if (entry.entrySignature.length === 0) {
    throw new LogError('unavailable', `the SCT of entry ${index} was lost with a database; the certificate has it`)
  }
  // Times are read from the leaf: what was hashed is what is promised.
  const { timestampMs } = parseLeaf(entry.leaf)
  return serializeSct({ logId: log.logId, timestampMs, extensions: NO_EXTENSIONS, signatureDer: entry.entrySignature })
}

/** The in-process form of add-pre-chain for the CA; the shape of its `CtLog`. */
export interface InProcessCtLog {
  /**
   * Adds a precertificate (DER chain, precertificate first) and returns the serialised SCT, once the entry is durable
   * and covered by a signed tree head. Rejects with `CtError` or `LogError`.
   */
  addPreCertificate(request: {
    readonly chain: readonly Uint8Array[]
    /** SHA-256 of the issuer's SPKI, 32 bytes. */
    readonly issuerKeyHash: Uint8Array
    /** TBSCertificate without the poison, DER. */
    readonly tbsDer: Uint8Array
  }): Promise<Uint8Array>
}

/** The log as the CA of the same process sees it; every check of the HTTP interface is made here too. */
export function ctLogOf({ log, roots: accepted }: { log: Log; roots: AcceptedRoots }): InProcessCtLog {
  return {
    async addPreCertificate({ chain, issuerKeyHash, tbsDer }) {
      const checked = checkChain(chain, 'precert', accepted)
      if (!isSameEntry(checked.entry, { type: 'precert', issuerKeyHash, tbsDer })) {
        throw new CtError('bad_certificate', 'the precertificate is not the one that the entry was computed from')
      }
      return submit(log, checked)
    },
  }
}

/**
 * The entry signature of a CT log: the SCT's, made by the agent from the leaf alone, so that an entry whose sealing a
 * crash interrupted gets the signature that it would have got.
 */
export function ctSignEntry(agent: Pick<SigningAgent, 'sct'>, key: string): SignEntry {
  return (content) => {
    const { entry, timestampMs } = parseLeaf(content.leaf)
    return agent.sct({ key, timestampMs, entry })
  }
}

function pendingEntry({ entry, submitted, issuers }: CheckedChain): PendingEntry {
  const signedPart = entry.type === 'precert' ? [entry.issuerKeyHash, entry.tbsDer] : [entry.certificateDer]
  return {
    // One entry whatever chain it came with; RFC 6962 §3 lets a log answer a resubmission with its first SCT.
    dedupeKey: new Uint8Array(
      hash('sha256', concatBytes(Uint8Array.of(entry.type === 'precert' ? 1 : 0), ...signedPart), 'buffer'),
    ),
    at: (_index, timestampMs) => {
      const leaf = merkleTreeLeaf(entry, timestampMs, NO_EXTENSIONS)
      return { leaf, tileData: leaf, searchKeys: [], attachment: extraData(entry, submitted, issuers) }
    },
  }
}

/** `extra_data` of get-entries, RFC 6962 §4.6: the issuers, after the precertificate if it is one. */
function extraData(entry: SctEntry, submitted: Uint8Array, issuers: readonly Uint8Array[]): Uint8Array {
  const chain = vector24(concatBytes(...issuers.map(vector24)))
  return entry.type === 'precert' ? concatBytes(vector24(submitted), chain) : chain
}

function vector24(content: Uint8Array): Uint8Array {
  const { length } = content
  if (length >= 2 ** 24) throw new CtError('bad_chain', 'the chain is too large')
  return concatBytes(Uint8Array.of(length >> 16, (length >> 8) & 0xff, length & 0xff), content)
}
