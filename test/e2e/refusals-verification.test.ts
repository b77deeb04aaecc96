/**
 * So that green means something: a bundle that every verifier accepts, and beside it the same command on copies in
 * which one thing is untrue, each refused by the error that is for it. Where a verifier does not look at a field, that
 * stands in the table with the reason; such a cell that turns red fails as well, and the table is then wrong.
 */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { type LogVersion, signers, type VerifyRequest } from './clients.ts'
import { freshFolder, identityToken, makeArtifact, makeStatement, sharedStack } from './context.ts'
import { type Forgery, forgeries, forge, timestampOver } from './hostile-bundles.ts'
import { type JudgeName, judgement, judges } from './judges.ts'
import { refusal, succeeded } from './run.ts'

const stack = sharedStack()
const { material, identity } = stack
const issuer = stack.endpoints.oidc
const judgeNames = Object.keys(judges) as JudgeName[]

/** A verifier that accepts the forgery, and why. */
interface Unchecked {
  readonly unchecked: string
}
type Verdict = RegExp | Unchecked

/**
 * What is said, by the library that says it: `go` is sigstore-go, which both cosigns verify with; `js` is
 * @sigstore/verify, which `chancery verify` uses too, naming the refusal by `code`. A verifier of its own mind stands
 * under its own name.
 */
interface Said extends Partial<Record<JudgeName, Verdict>> {
  readonly go: Verdict
  readonly js: Verdict
  readonly python: Verdict
  readonly code: string
}

const tilesClient =
  'rekor-tiles pkg/verify, which sigstore-go calls for a v2 entry, takes the index from the entry and size and root ' +
  'from the signed checkpoint; the copies in the proof are never read'
const jsCheckpoint =
  '@sigstore/verify tlog/merkle.js takes size and root from the signed checkpoint; the copies in the proof are never read'
const proofIndex = 'the place is verified by the index of the proof, and no SET covers that of the entry'
const enoughTime =
  'the SET gives the time that is asked for; a timestamp that does not verify merely does not count (threshold 1)'

const rootMismatch = /calculated root:.*does not match expected root/
const notEnoughEntries = /failed to verify log inclusion: not enough verified log entries from transparency log: 0 < 1/
const noTimestamp = /failed to verify timestamps: threshold not met for verified .*timestamps: 0 < 1/
const malformed = /bundle is malformed and may have been modified maliciously/
const noProof = {
  go: /inclusion proof missing in bundle \(required for bundle v0\.2\)/,
  // It tells a new bundle from an old one by reading it, and takes one that cannot be read for an old one.
  'cosign 3': /--trusted-root only supported with --new-bundle-format/,
  js: /invalid bundle/,
  python: malformed,
  code: 'malformed_bundle',
} as const
const contradiction = {
  root: { chancery: /refused \(not_in_log\): the inclusion proof is for another tree than the checkpoint/ },
  index: { chancery: /refused \(not_in_log\): the entry and its inclusion proof name different indexes/ },
} as const
const badSet = {
  go: notEnoughEntries,
  js: /inclusion promise could not be verified/,
  python: /invalid log entry: SET: invalid inclusion promise: keyring: invalid signature/,
  code: 'not_in_log',
} as const
const badProof = {
  js: /calculated root hash does not match inclusion proof/,
  python: /invalid log entry: inclusion proof contains invalid root hash/,
  code: 'not_in_log',
} as const
const shortProof = {
  go: /failed to verify log inclusion: .*wrong proof size \d+, want \d+/,
  js: /invalid hash count/,
  python: /invalid log entry: inclusion proof has wrong size/,
  code: 'not_in_log',
} as const
const badCheckpoint = {
  js: /invalid checkpoint signature/,
  python: /invalid log entry: checkpoint: invalid signature: keyring: invalid signature/,
  code: 'not_in_log',
} as const
const checkpointV1 = { ...badCheckpoint, go: /signature on checkpoint did not verify/ }
const checkpointV2 = {
  ...badCheckpoint,
  go: /failed to verify signatures on checkpoint: invalid signature for key rekor-v2\.\S+/,
}
const noEntry = {
  go: notEnoughEntries,
  js: /expected 1 tlog entries, got 0/,
  python: malformed,
  code: 'not_in_log',
} as const
const strayTimestamp = {
  go: { unchecked: enoughTime },
  js: /timestamp could not be verified/,
  python: { unchecked: enoughTime },
  code: 'bad_timestamp',
} as const
const unknownLog = {
  go: notEnoughEntries,
  python: /invalid log entry: checkpoint: Signature not found for log ID 07/,
  code: 'not_in_log',
} as const

const v1: Readonly<Record<(typeof forgeries.v1)[number], Said>> = {
  'SET: one bit': badSet,
  'SET: by another key': badSet,
  'SET: another time': badSet,
  'SET and timestamp: none': {
    go: noTimestamp,
    js: /expected 1 timestamps, got 0/,
    python: malformed,
    code: 'bad_timestamp',
  },
  'proof: one bit of a hash': { ...badProof, go: rootMismatch },
  'proof: a hash too few': shortProof,
  'proof: another root': { ...badProof, go: rootMismatch, js: { unchecked: jsCheckpoint }, ...contradiction.root },
  'proof: another tree size': { ...shortProof, js: { unchecked: jsCheckpoint }, ...contradiction.root },
  'proof: another index': { ...badProof, go: rootMismatch },
  'proof: none': noProof,
  'checkpoint: one bit of the signature': checkpointV1,
  'checkpoint: by another key': checkpointV1,
  'checkpoint: another root': checkpointV1,
  'entry: another index': badSet,
  'entry: both indexes': { ...badSet, python: badProof.python },
  'entry: another log': { ...unknownLog, js: badSet.js },
  'entry: of another artifact': {
    go: /transparency log signature does not match/,
    js: /signature mismatch/,
    python: /transparency log entry is inconsistent with other materials/,
    code: 'not_in_log',
  },
  'entry: none': noEntry,
  'timestamp: one bit': strayTimestamp,
  'timestamp: over something else': strayTimestamp,
  'signature: one bit': {
    go: /transparency log signature does not match/,
    js: /timestamp could not be verified/,
    python: /Signature is invalid for input/,
    code: 'bad_timestamp',
  },
  'certificate: of another key': {
    go: /transparency log certificate does not match/,
    js: /signature verification failed/,
    python: /Signature is invalid for input/,
    code: 'bad_signature',
  },
}

/** sigstore-go 1.2 builds the leaf anew from signature and certificate; the older one in cosign 2 compares them. */
const otherSignature = { go: rootMismatch, 'cosign 2': /transparency log signature does not match/ } as const
const badTimestamp = {
  js: /timestamp could not be verified/,
  python: /not enough sources of verified time/,
  code: 'bad_timestamp',
} as const

const v2: Readonly<Record<(typeof forgeries.v2)[number], Said>> = {
  'proof: one bit of a hash': { ...badProof, go: rootMismatch },
  'proof: a hash too few': shortProof,
  'proof: another root': {
    ...badProof,
    go: { unchecked: tilesClient },
    js: { unchecked: jsCheckpoint },
    ...contradiction.root,
  },
  'proof: another tree size': {
    ...shortProof,
    go: { unchecked: tilesClient },
    js: { unchecked: jsCheckpoint },
    ...contradiction.root,
  },
  'proof: another index': { ...badProof, go: { unchecked: tilesClient } },
  'proof: none': noProof,
  'checkpoint: one bit of the signature': checkpointV2,
  'checkpoint: by another key': checkpointV2,
  'checkpoint: another root': checkpointV2,
  'entry: another index': {
    go: rootMismatch,
    js: { unchecked: proofIndex },
    python: { unchecked: proofIndex },
    code: 'not_in_log',
    ...contradiction.index,
  },
  'entry: both indexes': { ...badProof, go: rootMismatch },
  'entry: another log': { ...unknownLog, js: badCheckpoint.js },
  'entry: of another artifact': {
    ...otherSignature,
    js: /signature mismatch/,
    python: /transparency log entry is inconsistent with other materials/,
    code: 'not_in_log',
  },
  'entry: none': noEntry,
  'timestamp: one bit': { ...badTimestamp, go: /ECDSA verification failure/ },
  'timestamp: over something else': { ...badTimestamp, go: /hashed messages don't match/ },
  'timestamp: none': {
    go: noTimestamp,
    js: /expected 1 timestamps, got 0/,
    python: malformed,
    code: 'bad_timestamp',
  },
  'signature: one bit': { ...badTimestamp, ...otherSignature },
  'certificate: of another key': {
    go: rootMismatch,
    'cosign 2': /transparency log certificate does not match/,
    js: /signature verification failed/,
    python: /Signature is invalid for input/,
    code: 'bad_signature',
  },
}
const table: Readonly<Record<LogVersion, Readonly<Partial<Record<Forgery, Said>>>>> = { v1, v2 }

/** Of the request itself: the bundle is honest, what is asked of it is not so. */
const requests: readonly { name: string; change: Partial<VerifyRequest>; said: Said }[] = [
  {
    name: 'another identity',
    change: { identity: 'other@example.test' },
    said: {
      go: /no matching CertificateIdentity found, last error: expected SAN value "other@example\.test", got "dev@example\.test"/,
      js: /certificate identity error - expected other@example\.test, got dev@example\.test/,
      python: /Certificate's SANs do not match other@example\.test; actual SANs: \{'dev@example\.test'\}/,
      code: 'wrong_identity',
      chancery: /refused \(wrong_identity\): signed by "dev@example\.test", not by "other@example\.test"/,
    },
  },
  {
    name: 'another issuer',
    change: { issuer: 'https://issuer.example' },
    said: {
      go: /no matching CertificateIdentity found, last error: expected issuer value "https:\/\/issuer\.example", got "http/,
      js: /invalid certificate extension - expected issuer=https:\/\/issuer\.example, got issuer=http/,
      python: /Certificate's OIDCIssuer does not match \(got 'http\S+', expected 'https:\/\/issuer\.example'\)/,
      code: 'wrong_issuer',
      chancery: /refused \(wrong_issuer\): the identity is from "http\S+", not from "https:\/\/issuer\.example"/,
    },
  },
]
const tampered: Readonly<Record<'blob' | 'attestation', Said>> = {
  blob: {
    go: /failed to verify signature: could not verify message: invalid signature/,
    js: /signature verification failed/,
    python: /Bundle message digest mismatch/,
    code: 'artifact_mismatch',
    chancery: /refused \(artifact_mismatch\): the file is not the one that was signed/,
  },
  attestation: {
    go: /provided artifact digests do not match digests in statement/,
    'cosign 2': /provided artifact digest does not match any digest in statement/,
    js: /no subject of the statement has the digest of the artifact/,
    python: /in-toto statement has no subject for digest/,
    code: 'artifact_mismatch',
    chancery: /refused \(artifact_mismatch\): the attestation is not about this file/,
  },
}

const folder = freshFolder('verification')
const artifact = makeArtifact(folder)
const changedArtifact = join(folder, 'changed.txt')
copyFileSync(artifact, changedArtifact)
writeFileSync(changedArtifact, 'one more line\n', { flag: 'a' })

describe.each(['v1', 'v2'] as const)('a blob on Rekor %s', (log) => {
  const bundle = join(folder, `blob-${log}.json`)
  const request = { material, log, kind: 'blob', artifact, bundle, identity, issuer } as const
  const forgedFile = (forgery: Forgery): string => `${bundle}.${forgery.replaceAll(/[^a-zA-Z]+/g, '-')}`

  beforeAll(async () => {
    const other = join(folder, `other-${log}.json`)
    await sign(log, 'blob', makeArtifact(folder, `other-${log}.txt`), other)
    await sign(log, 'blob', artifact, bundle)
    // An odd place in the log: then the proof has a hash in the lowest level, whose sibling was there before.
    if (proofIndexOf(bundle) % 2 === 0) await sign(log, 'blob', artifact, bundle)
    // Its entry is from the life of the certificate that it is put beside: it is refused for what it is, not for its time.
    const later = join(folder, `later-${log}.json`)
    await sign(log, 'blob', makeArtifact(folder, `other-${log}.txt`), later)
    const loot = {
      otherBundle: readFileSync(other, 'utf8'),
      laterBundle: readFileSync(later, 'utf8'),
      otherTimestamp: await timestampOver(material.timestamp, 'something else'),
    }
    const original = readFileSync(bundle, 'utf8')
    for (const forgery of forgeries[log]) writeFileSync(forgedFile(forgery), forge(original, forgery, loot))
  })

  describe.each(judgeNames)('%s', (judge) => {
    test('verifies', async () => {
      succeeded(await judges[judge](request))
    })

    test.concurrent.each(forgeries[log])('on a forgery, %s', async (forgery) => {
      const said = table[log][forgery]
      if (said === undefined) throw new Error('nothing stands in the table')
      await expectVerdict(judge, { ...request, bundle: forgedFile(forgery) }, said)
    })

    test.concurrent.each(requests)('refuses $name', async ({ change, said }) => {
      await expectVerdict(judge, { ...request, ...change }, said)
    })

    test('refuses a changed artifact', async () => {
      await expectVerdict(judge, { ...request, artifact: changedArtifact }, tampered.blob)
    })
  })
})

describe.each(['v1', 'v2'] as const)('an attestation on Rekor %s', (log) => {
  const bundle = join(folder, `attestation-${log}.json`)
  const request = { material, log, kind: 'attestation', artifact, bundle, identity, issuer } as const

  beforeAll(async () => {
    await sign(log, 'attestation', artifact, bundle)
  })

  test.concurrent.each(judgeNames)('%s verifies it, and refuses it for a changed artifact', async (judge) => {
    succeeded(await judges[judge](request))
    await expectVerdict(judge, { ...request, artifact: changedArtifact }, tampered.attestation)
  })
})

async function sign(log: LogVersion, kind: 'blob' | 'attestation', file: string, bundle: string): Promise<void> {
  const tokenFile = await identityToken(identity)
  const statement = makeStatement(folder, file, readFileSync(file))
  succeeded(await signers['sigstore-go']({ material, log, kind, artifact: file, tokenFile, bundle, ...statement }))
}

function proofIndexOf(bundle: string): number {
  const { verificationMaterial } = JSON.parse(readFileSync(bundle, 'utf8')) as {
    verificationMaterial: { tlogEntries: { inclusionProof: { logIndex: string } }[] }
  }
  return Number(verificationMaterial.tlogEntries[0]?.inclusionProof.logIndex)
}

async function expectVerdict(judge: JudgeName, request: VerifyRequest, said: Said): Promise<void> {
  const outcome = await judges[judge](request)
  const verdict = verdictOf(judge, said)
  if (!(verdict instanceof RegExp)) {
    expect(outcome.status, `was not checked because ${verdict.unchecked}; now it says: ${outcome.text}`).toBe(0)
    return
  }
  refusal(outcome)
  expect(judgement(outcome)).toMatch(verdict)
}

function verdictOf(judge: JudgeName, said: Said): Verdict {
  const own = said[judge]
  if (own !== undefined) return own
  if (judge === 'sigstore-python') return said.python
  if (judge === 'sigstore-js') return said.js
  if (judge !== 'chancery') return said.go
  return said.js instanceof RegExp ? new RegExp(`refused \\(${said.code}\\): ${said.js.source}`) : said.js
}
