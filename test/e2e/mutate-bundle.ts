/** Copies of a bundle in which one thing that a verifier must check is no longer true. */

interface LogEntry {
  logIndex: string
  canonicalizedBody: string
  inclusionPromise?: { signedEntryTimestamp: string }
  inclusionProof: {
    logIndex: string
    hashes?: string[]
    checkpoint: { envelope: string }
  }
}

/** The parts of a Sigstore bundle (v0.1 to v0.3) that are changed. */
export interface Bundle {
  verificationMaterial: {
    tlogEntries: LogEntry[]
    timestampVerificationData?: { rfc3161Timestamps?: { signedTimestamp: string }[] }
  }
  messageSignature?: { signature: string; messageDigest: { digest: string } }
  dsseEnvelope?: { payload: string; signatures: { sig: string }[] }
}

export type Mutation = 'SET' | 'proof' | 'checkpoint' | 'index' | 'timestamp' | 'signature'

/** A changed copy, or undefined if the bundle has no such part. */
export function mutate(bundle: Bundle, mutation: Mutation): Bundle | undefined {
  const copy = structuredClone(bundle)
  const entry = copy.verificationMaterial.tlogEntries[0]
  if (entry === undefined) return undefined
  const proof = entry.inclusionProof
  switch (mutation) {
    case 'SET': {
      if (entry.inclusionPromise === undefined) return undefined
      entry.inclusionPromise.signedEntryTimestamp = flipped(entry.inclusionPromise.signedEntryTimestamp)
      return copy
    }
    case 'proof': {
      const first = proof.hashes?.[0]
      if (proof.hashes === undefined || first === undefined) return undefined
      proof.hashes[0] = flipped(first)
      return copy
    }
    case 'checkpoint':
      proof.checkpoint.envelope = proof.checkpoint.envelope.replace(
        /(\u2014 \S+ )(\S+)/u,
        (_, name: string, signature: string) => name + flipped(signature),
      )
      return copy
    case 'index':
      // One back, so that it is still inside the tree.
      entry.logIndex = String(Number(entry.logIndex) - 1)
      proof.logIndex = String(Number(proof.logIndex) - 1)
      return copy
    case 'timestamp': {
      const timestamp = copy.verificationMaterial.timestampVerificationData?.rfc3161Timestamps?.[0]
      if (timestamp === undefined) return undefined
      timestamp.signedTimestamp = flipped(timestamp.signedTimestamp)
      return copy
    }
    case 'signature': {
      const signature = copy.dsseEnvelope?.signatures[0]
      if (copy.messageSignature) copy.messageSignature.signature = flipped(copy.messageSignature.signature)
      else if (signature) signature.sig = flipped(signature.sig)
      else return undefined
      return copy
    }
    default:
      throw new Error(`no such mutation: ${String(mutation satisfies never)}`)
  }
}

/** One bit of the last byte: in every signature here that is inside `s`, so that it still parses. */
function flipped(base64: string): string {
  const bytes = Buffer.from(base64, 'base64')
  const last = bytes.length - 1
  bytes[last] = (bytes[last] ?? 0) ^ 1
  return bytes.toString('base64')
}
