/**
 * Copies of a bundle in which exactly one thing is no longer what the stack signed: flipped bits, things left out, and
 * what a forger with keys of their own would write.
 */
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import canonicalize from 'canonicalize'

/** The parts of a bundle (v0.3, over a blob) that are forged here. */
interface ForgeableEntry {
  logIndex: string
  logId: { keyId: string }
  integratedTime?: string
  canonicalizedBody: string
  inclusionPromise?: { signedEntryTimestamp: string }
  inclusionProof: {
    logIndex: string
    rootHash: string
    treeSize: string
    hashes?: string[]
    checkpoint: { envelope: string }
  }
}

interface ForgeableBundle {
  messageSignature: { signature: string }
  verificationMaterial: {
    tlogEntries: ForgeableEntry[]
    certificate?: { rawBytes: string }
    timestampVerificationData?: { rfc3161Timestamps?: { signedTimestamp: string }[] }
  }
}

/** What a forger has at hand beside the bundle. */
export interface Loot {
  /** Valid bundles of the same signer and log over another artifact, made before and after the one that is forged. */
  readonly otherBundle: string
  readonly laterBundle: string
  /** A valid timestamp response (base64) of our authority over something else. */
  readonly otherTimestamp: string
}

/** What is forged on every log; each name says what is untrue, the rest of the bundle is as it was. */
const everywhere = [
  'proof: one bit of a hash',
  'proof: a hash too few',
  'proof: another root',
  'proof: another tree size',
  'proof: another index',
  'proof: none',
  'checkpoint: one bit of the signature',
  'checkpoint: by another key',
  'checkpoint: another root',
  'entry: another index',
  'entry: both indexes',
  'entry: another log',
  'entry: of another artifact',
  'entry: none',
  'timestamp: one bit',
  'timestamp: over something else',
  'signature: one bit',
  'certificate: of another key',
] as const
const underSet = ['SET: one bit', 'SET: by another key', 'SET: another time', 'SET and timestamp: none'] as const
const withoutSet = ['timestamp: none'] as const

export const forgeries = {
  v1: [...underSet, ...everywhere],
  v2: [...everywhere, ...withoutSet],
} as const

export type Forgery = (typeof forgeries)['v1' | 'v2'][number]

/** The forged copy; throws if the bundle has nothing of that kind to forge. */
export function forge(original: string, forgery: Forgery, loot: Loot): string {
  const bundle = JSON.parse(original) as ForgeableBundle
  const other = JSON.parse(loot.otherBundle) as ForgeableBundle
  const material = bundle.verificationMaterial
  const entry = present(material.tlogEntries[0], 'log entry')
  const proof = entry.inclusionProof
  switch (forgery) {
    case 'SET: one bit':
      promise(entry).signedEntryTimestamp = flipped(promise(entry).signedEntryTimestamp)
      break
    case 'SET: by another key':
      promise(entry).signedEntryTimestamp = signedEntryTimestamp(entry)
      break
    case 'SET: another time':
      entry.integratedTime = String(Number(present(entry.integratedTime, 'time')) + 1)
      break
    case 'SET and timestamp: none':
      delete entry.inclusionPromise
      delete material.timestampVerificationData
      break
    case 'proof: one bit of a hash':
      proof.hashes = present(proof.hashes, 'proof').map((hash, i) => (i === 0 ? flipped(hash) : hash))
      break
    case 'proof: a hash too few':
      present(proof.hashes?.pop(), 'proof hash')
      break
    case 'proof: another root':
      proof.rootHash = flipped(proof.rootHash)
      break
    case 'proof: another tree size':
      proof.treeSize = String(Number(proof.treeSize) * 2 + 1)
      break
    case 'proof: another index':
      proof.logIndex = neighbour(proof.logIndex)
      break
    case 'proof: none':
      delete (entry as Partial<ForgeableEntry>).inclusionProof
      break
    case 'checkpoint: one bit of the signature':
      proof.checkpoint.envelope = proof.checkpoint.envelope.replace(
        /^(\u2014 \S+ )(\S+)$/mu,
        (_, name: string, signature: string) => name + flipped(signature),
      )
      break
    case 'checkpoint: by another key':
      proof.checkpoint.envelope = resigned(proof.checkpoint.envelope)
      break
    case 'checkpoint: another root': {
      // The proof's own root stays: a verifier must not take it from outside of the signed text.
      const lines = proof.checkpoint.envelope.split('\n')
      lines[2] = Buffer.alloc(32, 7).toString('base64')
      proof.checkpoint.envelope = lines.join('\n')
      break
    }
    case 'entry: another index':
      entry.logIndex = neighbour(entry.logIndex)
      break
    case 'entry: both indexes':
      entry.logIndex = neighbour(entry.logIndex)
      proof.logIndex = neighbour(proof.logIndex)
      break
    case 'entry: another log':
      entry.logId.keyId = Buffer.alloc(32, 7).toString('base64')
      break
    case 'entry: of another artifact':
      material.tlogEntries = (JSON.parse(loot.laterBundle) as ForgeableBundle).verificationMaterial.tlogEntries
      break
    case 'entry: none':
      material.tlogEntries = []
      break
    case 'timestamp: one bit':
      timestamp(material).signedTimestamp = flipped(timestamp(material).signedTimestamp)
      break
    case 'timestamp: over something else':
      material.timestampVerificationData = { rfc3161Timestamps: [{ signedTimestamp: loot.otherTimestamp }] }
      break
    case 'timestamp: none':
      delete material.timestampVerificationData
      break
    case 'signature: one bit':
      bundle.messageSignature.signature = flipped(bundle.messageSignature.signature)
      break
    case 'certificate: of another key':
      material.certificate = present(other.verificationMaterial.certificate, 'certificate')
      break
    default:
      throw new Error(`no such forgery: ${String(forgery satisfies never)}`)
  }
  return JSON.stringify(bundle)
}

/** One bit of the last byte: in every signature here that is inside `s`, so that it still parses. */
function flipped(base64: string): string {
  const bytes = Buffer.from(base64, 'base64')
  const last = bytes.length - 1
  bytes[last] = (bytes[last] ?? 0) ^ 1
  return bytes.toString('base64')
}

function promise(entry: ForgeableEntry): { signedEntryTimestamp: string } {
  return present(entry.inclusionPromise, 'SET')
}

function timestamp(material: ForgeableBundle['verificationMaterial']): { signedTimestamp: string } {
  return present(material.timestampVerificationData?.rfc3161Timestamps?.[0], 'timestamp')
}

/** A SET over exactly what Rekor signs, by a key that no client trusts. */
function signedEntryTimestamp({ canonicalizedBody, integratedTime, logId, logIndex }: ForgeableEntry): string {
  const payload = canonicalize({
    body: canonicalizedBody,
    integratedTime: Number(integratedTime),
    logID: Buffer.from(logId.keyId, 'base64').toString('hex'),
    logIndex: Number(logIndex),
  })
  return sign('sha256', Buffer.from(present(payload, 'payload')), strangersKey()).toString('base64')
}

/** The same checkpoint under the same name and key hint, signed by a key that no client trusts. */
function resigned(envelope: string): string {
  const end = envelope.indexOf('\n\n') + 1
  const text = envelope.slice(0, end)
  const [, name, encoded] = present(/^\u2014 (\S+) (\S+)$/mu.exec(envelope), 'signature line')
  const hint = Buffer.from(present(encoded, 'signature'), 'base64').subarray(0, 4)
  const signature = Buffer.concat([hint, sign('sha256', Buffer.from(text), strangersKey())])
  return `${text}\n\u2014 ${name} ${signature.toString('base64')}\n`
}

function strangersKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

/** The other one of a pair of siblings: for an odd index the one before it, which was in every tree that it is in. */
function neighbour(index: string): string {
  return String(Number(index) % 2 === 0 ? Number(index) + 1 : Number(index) - 1)
}

function present<T>(value: T | undefined | null, what: string): T {
  if (value === undefined || value === null) throw new Error(`the bundle has no ${what}`)
  return value
}

/** A valid timestamp response, base64, over a message. */
export async function timestampOver(authority: string, message: string | Uint8Array): Promise<string> {
  const artifactHash = createHash('sha256').update(message).digest('base64')
  const answer = await fetch(authority, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ artifactHash, hashAlgorithm: 'sha256', certificates: true }),
  })
  if (!answer.ok) throw new Error(`the timestamp authority answered ${answer.status}`)
  return Buffer.from(await answer.arrayBuffer()).toString('base64')
}
