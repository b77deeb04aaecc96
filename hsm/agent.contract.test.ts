/** The agent on SoftHSM: what it signs, what it refuses, and what it remembers. */
import { createPublicKey, verify } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { emptyRoot, parseNote, verifyCheckpoint } from '#tlog'
import {
  OID,
  parseCsr,
  parseName,
  parseTbsCertificate,
  sctSignatureInput,
  serializeSct,
  treeHeadSignatureInput,
  verifyCsr,
  withoutExtension,
} from '#x509'
import {
  certificateTbs,
  install,
  KEY_OF,
  need,
  ORIGIN,
  prepared,
  setRequest,
  sha256,
  timestampRequest,
  treeOf,
  tufPayload,
  type Installation,
} from './agent.fixture.ts'
import type { AdminAgent } from './administration.ts'
import { parseStatement } from './ceremony-statement.ts'
import { HsmError, type Purpose } from './signing.ts'
import type { SpawnedAgent } from './spawn.ts'

let installation: Installation
let spawned: Required<SpawnedAgent>
let agent: AdminAgent

beforeAll(async () => {
  installation = await install()
  spawned = await installation.start()
  agent = spawned.admin
})

afterAll(async () => {
  await spawned.close()
  installation.remove()
})

async function holds(key: string, message: Uint8Array, signature: Uint8Array): Promise<boolean> {
  const { spkiDer, kind } = await agent.key(key)
  const publicKey = createPublicKey({ key: Buffer.from(spkiDer), format: 'der', type: 'spki' })
  return verify(kind === 'P-384' ? 'sha384' : 'sha256', message, publicKey, signature)
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}

function approval() {
  return {
    key: 'operator',
    act: 'approve',
    ceremony: 'root-2026',
    name: 'alice',
    planSha256: sha256(Buffer.from('a plan')),
  } as const
}

/** `code reason` of a refusal. */
async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
  return 'signed'
}

describe('every purpose signs, and the signature holds over what the specification says', () => {
  test('certificate, before and after the log', async () => {
    const leaf = prepared(installation)
    const poisoned = leaf.precertificateTbs()
    expect(await holds('issuing-ca', poisoned, await agent.certificate({ key: 'issuing-ca', tbsDer: poisoned }))).toBe(
      true,
    )
    const tbsDer = await certificateTbs(installation, agent)
    expect(await holds('issuing-ca', tbsDer, await agent.certificate({ key: 'issuing-ca', tbsDer }))).toBe(true)
  })

  test('sct', async () => {
    const entry = prepared(installation).sctInput()
    const timestampMs = Date.now()
    const signature = await agent.sct({ key: 'ct', timestampMs, entry })
    expect(await holds('ct', sctSignatureInput(entry, timestampMs, new Uint8Array(0)), signature)).toBe(true)
  })

  test('set', async () => {
    const request = setRequest()
    const logID = Buffer.from((await agent.key('rekor-v1')).keyId).toString('hex')
    const body = Buffer.from(request.body).toString('base64')
    const signed = `{"body":"${body}","integratedTime":${request.integratedTimeSeconds},"logID":"${logID}","logIndex":5}`
    expect(await holds('rekor-v1', Buffer.from(signed), await agent.set(request))).toBe(true)
  })

  test('timestamp', async () => {
    const request = timestampRequest()
    expect(await holds('tsa', request.signedAttributesDer, await agent.timestamp(request))).toBe(true)
  })

  test('tuf', async () => {
    const payload = tufPayload({ version: 1 })
    const signature = await agent.tuf({ key: 'tuf-online', role: 'timestamp', payload })
    expect(await holds('tuf-online', payload, signature)).toBe(true)
  })

  test.each([
    ['rekor-v1', 'rekor-v1.test'],
    ['rekor-v2', 'rekor-v2.test'],
  ] as const)('tree head of %s as a note', async (key, name) => {
    const tree = treeOf(5)
    const head = { key, origin: ORIGIN[key], size: 5, rootHash: tree.root(), timestampMs: Date.now() }
    const { note } = await agent.treeHead({ ...head, consistencyProof: [] })
    const { spkiDer } = await agent.key(key)
    expect(verifyCheckpoint(note, { origin: ORIGIN[key], spkiDer })).toMatchObject({ size: 5, rootHash: tree.root() })
    expect(parseNote(note).signatures.map((line) => line.name)).toEqual([name])
  })

  test('tree head of ct as RFC 6962 has it', async () => {
    const timestampMs = Date.now()
    const head = { key: 'ct', origin: ORIGIN.ct, size: 0, rootHash: emptyRoot(), timestampMs }
    const { note, signature } = await agent.treeHead({ ...head, consistencyProof: [] })
    expect(note).toBe('')
    expect(await holds('ct', treeHeadSignatureInput(0, timestampMs, emptyRoot()), signature)).toBe(true)
  })

  test('certificate request: the key itself, a name and nothing else', async () => {
    const der = await agent.certificateRequest({ key: 'new-ca', organization: 'Müller & Söhne', commonName: 'New CA' })
    const csr = parseCsr(der)
    verifyCsr(csr)
    expect(csr.publicKey.spkiDer).toEqual(need(installation.keys['new-ca']).spkiDer)
    expect(parseName(csr.subjectDer)).toEqual([
      { type: 'O', value: 'Müller & Söhne' },
      { type: 'CN', value: 'New CA' },
    ])
  })

  test("an operator's statement, with the agent's clock", async () => {
    const head = sha256(Buffer.from('a transcript'))
    for (const request of [approval(), { ...approval(), act: 'witness', lines: 12, head } as const]) {
      const { statement, signature } = await agent.ceremonyStatement(request)
      expect(await holds('operator', Buffer.from(statement), signature)).toBe(true)
      const said = need(parseStatement(statement))
      expect(said).toMatchObject({ act: request.act, ceremony: 'root-2026', name: 'alice' })
      expect(Math.abs(said.atMs - Date.now())).toBeLessThan(60_000)
    }
  })

  test('hundreds of requests at once, each with its own answer', async () => {
    const requests = Array.from({ length: 300 }, (_, i) => ({ ...setRequest(), logIndex: i }))
    const { keyId } = await agent.key('rekor-v1')
    const signatures = await Promise.all(requests.map((request) => agent.set(request)))
    for (const [i, signature] of signatures.entries()) {
      const { body, integratedTimeSeconds: integratedTime, logIndex } = requests[i] ?? setRequest()
      const logID = Buffer.from(keyId).toString('hex')
      const signed = JSON.stringify({ body: body.toString('base64'), integratedTime, logID, logIndex })
      expect(await holds('rekor-v1', Buffer.from(signed), signature)).toBe(true)
    }
  })
})

describe("every purpose refuses every other purpose's bytes", () => {
  /** Bytes that each purpose's key has signed or would sign. */
  async function signedBytes(): Promise<Record<Purpose, Uint8Array>> {
    return {
      certificate: prepared(installation).precertificateTbs(),
      caCertificate: parseTbsOf(installation.rootDer),
      treeHead: treeHeadSignatureInput(3, Date.now(), treeOf(3).root()),
      sct: sctSignatureInput(prepared(installation).sctInput(), Date.now(), new Uint8Array(0)),
      set: Buffer.from(JSON.stringify({ body: 'e30=', integratedTime: 1, logID: 'ab', logIndex: 0 })),
      timestamp: timestampRequest().signedAttributesDer,
      tuf: tufPayload({ version: 1 }),
      certificateRequest: parseCsr(
        await agent.certificateRequest({ key: 'new-ca', organization: 'Example', commonName: 'New CA' }),
      ).tbsDer,
      ceremonyStatement: Buffer.from((await agent.ceremonyStatement(approval())).statement),
    }
  }

  /** The bytes in every place of a purpose's request that takes bytes of any length. */
  const sendings: { [purpose in Purpose]: (key: string, bytes: Uint8Array) => Promise<unknown>[] } = {
    certificate: (key, tbsDer) => [agent.certificate({ key, tbsDer })],
    caCertificate: (key, tbsDer) => [agent.caCertificate({ key, tbsDer })],
    treeHead: (key, bytes) => [
      agent.treeHead({
        key,
        origin: textOf(bytes),
        size: 1,
        rootHash: sha256(bytes),
        timestampMs: Date.now(),
        consistencyProof: [],
      }),
    ],
    sct: (key, bytes) => [
      agent.sct({ key, timestampMs: Date.now(), entry: { type: 'x509', certificateDer: bytes } }),
      agent.sct({
        key,
        timestampMs: Date.now(),
        entry: { type: 'precert', issuerKeyHash: new Uint8Array(32), tbsDer: bytes },
      }),
    ],
    set: (key, body) => [agent.set({ ...setRequest({ body }), key })],
    timestamp: (key, bytes) => [
      agent.timestamp({ ...timestampRequest(), key, tstInfoDer: bytes }),
      agent.timestamp({ ...timestampRequest(), key, signedAttributesDer: bytes }),
    ],
    tuf: (key, payload) => [
      agent.tuf({ key, role: 'timestamp', payload }),
      agent.tuf({ key, role: 'snapshot', payload }),
    ],
    certificateRequest: (key, bytes) => [
      agent.certificateRequest({ key, organization: 'Example', commonName: textOf(bytes) }),
      agent.certificateRequest({ key, organization: textOf(bytes), commonName: 'New CA' }),
    ],
    ceremonyStatement: (key, bytes) => [
      agent.ceremonyStatement({ ...approval(), key, name: textOf(bytes) }),
      agent.ceremonyStatement({ ...approval(), key, ceremony: textOf(bytes) }),
      agent.ceremonyStatement({ ...approval(), key, planSha256: bytes }),
    ],
  }
  const purposes = Object.keys(sendings) as Purpose[] // the keys of the table above

  test.each(purposes)('%s', async (purpose) => {
    for (const [other, bytes] of Object.entries(await signedBytes())) {
      if (other === purpose) continue
      // An SCT is a promise about any certificate, an intermediate's too: these two share TBSCertificates by design.
      if (purpose === 'sct' && other === 'caCertificate') continue
      for (const sent of sendings[purpose](KEY_OF[purpose], bytes)) {
        expect(await refusal(sent), `${other} bytes as ${purpose}`).toMatch(/^refused /)
      }
    }
  })

  test.each(purposes)('%s with the key of another purpose', async (purpose) => {
    const sound = await signedBytes()
    for (const [other, key] of Object.entries(KEY_OF)) {
      if (other === purpose || (purpose === 'treeHead' && (other === 'sct' || other === 'set'))) continue
      for (const sent of sendings[purpose](key, sound[purpose])) {
        expect(await refusal(sent), `${purpose} with ${key}`).toBe('refused wrong_purpose')
      }
    }
  })

  test('the signing channel has no administration', async () => {
    const signing = spawned.agent as AdminAgent // the same client; the channel is what differs
    expect(await refusal(signing.caCertificate({ key: 'root-ca', tbsDer: parseTbsOf(installation.rootDer) }))).toBe(
      'refused unknown_method',
    )
    expect(
      await refusal(signing.certificateRequest({ key: 'new-ca', organization: 'Example', commonName: 'New CA' })),
    ).toBe('refused unknown_method')
    expect(await refusal(signing.ceremonyStatement(approval()))).toBe('refused unknown_method')
    expect(await refusal(signing.generateKey({ token: 'online', label: 'x', kind: 'P-256' }))).toBe(
      'refused unknown_method',
    )
    expect(await refusal(signing.unlatch({ latch: 'token:online' }))).toBe('refused unknown_method')
    expect(await refusal(signing.reload())).toBe('refused unknown_method')
    const key = {
      ...need(installation.keys['ct']),
      label: 'ct',
      mechanism: 'AES-KWP',
      kekIdHex: '00',
      wrapped: new Uint8Array(8),
    } as const
    for (const [name, asked] of Object.entries({
      tokens: () => signing.tokens(),
      latches: () => signing.latches(),
      keyRecords: () => signing.keyRecords(),
      listObjects: () => signing.listObjects('online'),
      rotatePin: () => signing.rotatePin({ token: 'online' }),
      wrapKey: () => signing.wrapKey({ token: 'online', idHex: key.idHex }),
      unwrapKey: () => signing.unwrapKey({ token: 'online', key }),
    })) {
      expect(await refusal(asked()), name).toBe('refused unknown_method')
    }
    expect(await refusal(signing.destroyKey({ token: 'online', idHex: '00' }))).toBe('refused unknown_method')
  })
})

describe('certificate refuses', () => {
  const ask = (tbsDer: Uint8Array) => refusal(agent.certificate({ key: 'issuing-ca', tbsDer }))

  test('one that is neither poisoned nor logged', async () => {
    expect(await ask(prepared(installation).sctInput().tbsDer)).toBe('refused no_sct')
  })

  test('a day of validity', async () => {
    expect(await ask(prepared(installation, { minutes: 24 * 60 }).precertificateTbs())).toBe(
      'refused validity_over_cap',
    )
  })

  test.each([-3600, 3600])('notBefore %i seconds away', async (seconds) => {
    const notBefore = new Date(Math.floor(Date.now() / 1000 + seconds) * 1000)
    expect(await ask(prepared(installation, { notBefore }).precertificateTbs())).toBe('refused not_before_far')
  })

  test('an SCT over another certificate, of another log, and two of them', async () => {
    const { keyId } = await agent.key('ct')
    const timestampMs = Date.now()
    const extensions = new Uint8Array(0)
    const sctOver = async (entry: Parameters<AdminAgent['sct']>[0]['entry'], logId: Uint8Array) =>
      serializeSct({ logId, timestampMs, extensions, signatureDer: await agent.sct({ key: 'ct', timestampMs, entry }) })
    const own = async (leaf: ReturnType<typeof prepared>) => await sctOver(leaf.sctInput(), keyId)
    const stranger = await sctOver(prepared(installation).sctInput(), keyId)
    expect(await ask(prepared(installation).certificateTbs([stranger]))).toBe('refused sct_does_not_verify')
    const foreign = prepared(installation)
    expect(await ask(foreign.certificateTbs([await sctOver(foreign.sctInput(), new Uint8Array(32))]))).toBe(
      'refused sct_of_other_log',
    )
    const twice = prepared(installation)
    expect(await ask(twice.certificateTbs([await own(twice), stranger]))).toBe('refused sct_not_one')
  })

  test('any byte changed after the log has seen it', async () => {
    const tbsDer = await certificateTbs(installation, agent)
    const san = Buffer.from(tbsDer).indexOf('dev@example.com')
    const changed = Uint8Array.from(tbsDer)
    changed[san] = 'c'.charCodeAt(0)
    expect(await ask(changed)).toBe('refused sct_does_not_verify')
    expect(await ask(tbsDer)).toBe('signed')
  })

  test('parts of the profile that are missing', async () => {
    const tbs = prepared(installation).precertificateTbs()
    for (const oid of [OID.extKeyUsage, OID.keyUsage, OID.subjectAltName, OID.authorityKeyIdentifier]) {
      expect(await ask(withoutExtension(tbs, oid)), oid).toMatch(/^refused (wrong_|san_)/)
    }
  })
})

describe('sct and set refuse', () => {
  test.each([
    ['in the future', 60_000, 'refused time_in_future'],
    ['two days old', -2 * 86_400_000, 'refused time_too_old'],
    ['before the last one', -600_000, 'refused time_steps_back'],
  ])('a time %s', async (_, offsetMs, expected) => {
    await agent.sct({ key: 'ct', timestampMs: Date.now(), entry: prepared(installation).sctInput() })
    await agent.set(setRequest())
    const timestampMs = Date.now() + offsetMs
    expect(await refusal(agent.sct({ key: 'ct', timestampMs, entry: prepared(installation).sctInput() }))).toBe(
      expected,
    )
    const integratedTimeSeconds = Math.floor(timestampMs / 1000)
    expect(await refusal(agent.set(setRequest({ integratedTimeSeconds })))).toBe(expected)
  })

  test('an entry with its poison', async () => {
    const entry = { ...prepared(installation).sctInput(), tbsDer: prepared(installation).precertificateTbs() }
    expect(await refusal(agent.sct({ key: 'ct', timestampMs: Date.now(), entry }))).toBe('refused poisoned')
  })

  test.each(['[]', '"entry"', '{"apiVersion":"1"}', '{"apiVersion":"1","kind":"x","spec":{},"more":1}', 'x'])(
    'the entry %s',
    async (text) => {
      expect(await refusal(agent.set(setRequest({ body: Buffer.from(text) })))).toBe('refused malformed_entry')
    },
  )
})

describe('timestamp refuses', () => {
  test.each([-60_000, 60_000])('genTime %i ms away', async (offsetMs) => {
    const request = timestampRequest({ genTime: new Date(Date.now() + offsetMs) })
    expect(await refusal(agent.timestamp(request))).toBe('refused gen_time_far')
  })

  test('a digest of other bytes', async () => {
    const request = timestampRequest({ digestOf: Buffer.from('other') })
    expect(await refusal(agent.timestamp(request))).toBe('refused digest_mismatch')
  })
})

describe('tuf', () => {
  const ask = (
    changes: Readonly<Record<string, string | number>>,
    role: 'snapshot' | 'timestamp' | 'root' = 'timestamp',
  ) => refusal(agent.tuf({ key: 'tuf-online', role, payload: tufPayload(changes) }))

  test('goes up, may repeat itself, and never back', async () => {
    const payload = tufPayload({ version: 10 })
    const same = () => refusal(agent.tuf({ key: 'tuf-online', role: 'timestamp', payload }))
    expect(await same()).toBe('signed')
    expect(await same()).toBe('signed')
    expect(await ask({ version: 10, note: 'other' })).toBe('refused version_reused')
    expect(await ask({ version: 9 })).toBe('refused version_steps_back')
    expect(await ask({ version: 11 })).toBe('signed')
  })

  test.each([
    [{ _type: 'snapshot' }, 'refused wrong_type'],
    [{ expires: '2020-01-01T00:00:00Z' }, 'refused expired'],
    [{ expires: '2099-01-01T00:00:00Z' }, 'refused expiry_over_cap'],
    [{ expires: '2099-01-01T00:00:00.000Z' }, 'refused malformed_metadata'],
    [{ version: 0 }, 'refused malformed_metadata'],
    [{ version: 'x' }, 'refused malformed_metadata'],
  ])('refuses %j', async (changes, expected) => {
    expect(await ask({ version: 1000, ...changes })).toBe(expected)
  })

  test("refuses a role that is not this key's", async () => {
    expect(await ask({ _type: 'root', version: 1 }, 'root')).toBe('refused wrong_role')
  })
})

describe('administration', () => {
  test('refuses a label that is taken and the key of the configuration', async () => {
    expect(await refusal(agent.generateKey({ token: 'online', label: 'ct', kind: 'P-256' }))).toBe(
      'refused label_exists',
    )
    const { idHex } = installation.keys['ct'] ?? { idHex: '' }
    expect(await refusal(agent.destroyKey({ token: 'online', idHex }))).toBe('refused key_configured')
  })

  test('makes a key and destroys it', async () => {
    const made = await agent.generateKey({ token: 'online', label: 'passing', kind: 'P-256' })
    expect(made.unproven).toEqual([])
    expect(made.idHex).toMatch(/^[0-9a-f]{32}$/)
    await agent.destroyKey({ token: 'online', idHex: made.idHex })
    expect(await refusal(agent.destroyKey({ token: 'online', idHex: made.idHex }))).toBe('refused no_such_key')
  })

  test('refuses keys and latches that are not there', async () => {
    expect(await refusal(agent.key('nobody'))).toBe('unknown_key unknown_key')
    expect(await refusal(agent.set({ ...setRequest(), key: 'nobody' }))).toBe('unknown_key unknown_key')
    expect(await refusal(agent.unlatch({ latch: 'token:online' }))).toBe('refused no_such_latch')
  })
})

function parseTbsOf(certificateDer: Uint8Array): Uint8Array {
  // The TBSCertificate is the first element inside the outer SEQUENCE, whose head has four bytes at this length.
  const inner = certificateDer.subarray(4)
  const length = 4 + Buffer.from(inner).readUInt16BE(2)
  return parseTbsCertificate(inner.subarray(0, length)).tbsDer
}
