import 'reflect-metadata'
import { createHash, verify, X509Certificate } from 'node:crypto'
import * as x509 from '@peculiar/x509'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HsmError, type HsmErrorCode } from '#hsm'
import { DerReader, OID, integer, parseCertificate } from '#x509'
import {
  TimestampError,
  createTimestampAuthority,
  inspectTimestampResponse,
  type TimestampAuthorityOptions,
  type TimestampRequest,
} from '#timestamp'
import { PROFILE, makeSigner, type LeafChanges } from './test-chain.ts'

const NOW = Date.UTC(2026, 7, 20, 10, 0, 0, 750)
const signer = await makeSigner(new Date(NOW))
const request = (changes: Partial<TimestampRequest> = {}): TimestampRequest => ({
  hash: 'sha256',
  digest: Uint8Array.from(createHash('sha256').update('artifact').digest()),
  certReq: false,
  ...changes,
})
const optionsWith = (changes: Partial<TimestampAuthorityOptions> = {}): TimestampAuthorityOptions => ({
  agent: signer,
  key: 'tsa',
  chain: signer.chain,
  now: () => NOW,
  production: false,
  ...changes,
})

async function codeOf(run: Promise<unknown>): Promise<string> {
  try {
    await run
  } catch (error) {
    if (error instanceof TimestampError) return error.code
    throw error
  }
  return 'accepted'
}

describe('a token', () => {
  test('says what was asked, when, and by whom', async () => {
    const authority = await createTimestampAuthority(optionsWith())
    const response = await authority.timestamp(request({ nonce: 2n ** 200n, certReq: true }))
    const found = inspectTimestampResponse(response)
    const [leafDer = new Uint8Array(0)] = signer.chain
    expect(found).toMatchObject({
      status: 0,
      policyOid: '1.3.6.1.4.1.57264.2',
      hashOid: '2.16.840.1.101.3.4.2.1',
      genTime: new Date('2026-08-20T10:00:00Z'),
      signingTime: new Date('2026-08-20T10:00:00Z'),
      certificates: [leafDer],
      certificateHash: Uint8Array.from(createHash('sha256').update(leafDer).digest()),
      messageDigest: Uint8Array.from(createHash('sha256').update(found.tstInfoDer).digest()),
    })
    expect(found.nonce).toEqual(integer(2n ** 200n).subarray(2))
    expect(
      verify('sha256', found.signedAttributesDer, new X509Certificate(leafDer).publicKey, found.signatureDer),
    ).toBe(true)
  })

  test('leaves certificate and nonce out unless asked', async () => {
    const authority = await createTimestampAuthority(optionsWith())
    const found = inspectTimestampResponse(await authority.timestamp(request()))
    expect(found.certificates).toEqual([])
    expect(found.nonce).toBeUndefined()
  })

  test('echoes any nonce and hash', async () => {
    const authority = await createTimestampAuthority(optionsWith())
    const lengths = { sha256: 32, sha384: 48, sha512: 64 } as const
    await fc.assert(
      fc.asyncProperty(
        fc.bigInt(),
        fc.constantFrom('sha256', 'sha384', 'sha512'),
        fc.boolean(),
        async (nonce, hash, certReq) => {
          const digest = new Uint8Array(lengths[hash]).fill(Number(BigInt.asUintN(8, nonce)))
          const encoded = integer(nonce)
          const found = inspectTimestampResponse(await authority.timestamp({ hash, digest, nonce, certReq }))
          expect(found.digest).toEqual(digest)
          expect(found.nonce).toEqual(encoded.subarray(encoded[1] === undefined || encoded[1] < 0x80 ? 2 : 3))
        },
      ),
      { numRuns: 40 },
    )
  })

  test('has a positive serial of its own', async () => {
    const authority = await createTimestampAuthority(
      optionsWith({ randomBytes: (length) => new Uint8Array(length).fill(0xff) }),
    )
    const { serial } = inspectTimestampResponse(await authority.timestamp(request()))
    expect(serial).toEqual(Uint8Array.from([0x7f, ...new Uint8Array(19).fill(0xff)]))
    const random = await createTimestampAuthority(optionsWith())
    const serials = await Promise.all(
      Array.from({ length: 20 }, async () =>
        Buffer.from(inspectTimestampResponse(await random.timestamp(request())).serial).toString('hex'),
      ),
    )
    expect(new Set(serials).size).toBe(20)
  })

  test('is signed over sorted attributes, which is what is sent', async () => {
    const authority = await createTimestampAuthority(optionsWith())
    const found = inspectTimestampResponse(await authority.timestamp(request()))
    // OpenSSL does not mind the order; strict parsers do. The reader refuses a set that is not sorted.
    expect(new DerReader(found.signedAttributesDer).set().remaining).toBeGreaterThan(0)
    expect(found.signedAttributesDer).toEqual(signer.requests.at(-1)?.signedAttributesDer)
    expect(found.tstInfoDer).toEqual(signer.requests.at(-1)?.tstInfoDer)
  })
})

describe('time', () => {
  test('never steps back, and stops when that would be a lie', async () => {
    let now = NOW
    const authority = await createTimestampAuthority(optionsWith({ now: () => now }))
    const genTime = async (): Promise<string> =>
      inspectTimestampResponse(await authority.timestamp(request())).genTime.toISOString()
    expect(await genTime()).toBe('2026-08-20T10:00:00.000Z')
    now += 2000
    expect(await genTime()).toBe('2026-08-20T10:00:02.000Z')
    now -= 1000
    expect(await genTime()).toBe('2026-08-20T10:00:02.000Z')
    now -= 1000
    expect(await codeOf(authority.timestamp(request()))).toBe('time_not_available')
    now += 3000
    expect(await genTime()).toBe('2026-08-20T10:00:03.000Z')
  })

  test.each([
    ['ahead by the accuracy', true, () => Promise.resolve({ offsetMs: 1000 }), 'accepted'],
    ['behind by the accuracy', true, () => Promise.resolve({ offsetMs: -1000 }), 'accepted'],
    ['ahead by more', true, () => Promise.resolve({ offsetMs: 1001 }), 'time_not_available'],
    ['behind by more', true, () => Promise.resolve({ offsetMs: -1001 }), 'time_not_available'],
    ['off by no number', true, () => Promise.resolve({ offsetMs: Number.NaN }), 'time_not_available'],
    ['not known', true, () => Promise.reject(new Error('no server')), 'time_not_available'],
    ['off, in development', false, () => Promise.resolve({ offsetMs: 60_000 }), 'accepted'],
    ['not known, in development', false, () => Promise.reject(new Error('no server')), 'accepted'],
  ] as const)('with a clock that is %s', async (_, production, timeSource, expected) => {
    const authority = await createTimestampAuthority(optionsWith({ production, timeSource }))
    expect(await codeOf(authority.timestamp(request()))).toBe(expected)
  })

  test('is measured once in a while, not for each request, and again after a failure', async () => {
    let now = NOW
    let measurements = 0
    let offsetMs = 0
    const timeSource = (): Promise<{ offsetMs: number }> => {
      measurements++
      return Promise.resolve({ offsetMs })
    }
    const authority = await createTimestampAuthority(optionsWith({ production: true, timeSource, now: () => now }))
    await Promise.all([1, 2, 3].map(() => authority.timestamp(request())))
    expect(measurements).toBe(1)
    offsetMs = 5000
    now += 10_001
    expect(await codeOf(authority.timestamp(request()))).toBe('time_not_available')
    expect(measurements).toBe(2)
    offsetMs = 0
    now += 10_001
    expect(await codeOf(authority.timestamp(request()))).toBe('accepted')
  })

  test('ends with the chain', async () => {
    let now = NOW
    const authority = await createTimestampAuthority(optionsWith({ now: () => now }))
    now += 30 * 86_400_000
    expect(await codeOf(authority.timestamp(request()))).toBe('unavailable')
  })
})

describe('refusals', () => {
  test.each([
    ['busy', 'busy'],
    ['unavailable', 'unavailable'],
    ['refused', 'unavailable'],
    ['latched', 'unavailable'],
    ['unknown_key', 'unavailable'],
  ] as const)('an agent that is %s', async (agentCode: HsmErrorCode, expected) => {
    const agent = { key: signer.key, timestamp: () => Promise.reject(new HsmError(agentCode, 'test', 'secret detail')) }
    const authority = await createTimestampAuthority(optionsWith({ agent }))
    expect(await codeOf(authority.timestamp(request()))).toBe(expected)
    await expect(authority.timestamp(request())).rejects.not.toThrow('secret detail')
  })

  test('more at once than is allowed', async () => {
    const gates: (() => void)[] = []
    const agent = {
      key: signer.key,
      timestamp: async (given: Parameters<typeof signer.timestamp>[0]) => {
        await new Promise<void>((resolve) => gates.push(resolve))
        return signer.timestamp(given)
      },
    }
    const authority = await createTimestampAuthority(optionsWith({ agent, maxConcurrent: 2 }))
    const running = [authority.timestamp(request()), authority.timestamp(request())]
    expect(await codeOf(authority.timestamp(request()))).toBe('busy')
    for (const open of gates) open()
    await Promise.all(running)
    const after = authority.timestamp(request())
    await expect.poll(() => gates.length).toBe(3)
    gates[2]?.()
    expect(await codeOf(after)).toBe('accepted')
  })

  test('another policy', async () => {
    const authority = await createTimestampAuthority(optionsWith({ policyOid: '1.2.3' }))
    expect(await codeOf(authority.timestamp(request({ policyOid: '1.2.3' })))).toBe('accepted')
    expect(await codeOf(authority.timestamp(request({ policyOid: '1.3.6.1.4.1.57264.2' })))).toBe('unaccepted_policy')
  })

  test('a first token whose signature does not hold', async () => {
    const other = await makeSigner(new Date(NOW))
    const authority = await createTimestampAuthority(
      optionsWith({ agent: { key: signer.key, timestamp: other.timestamp } }),
    )
    expect(await codeOf(authority.timestamp(request()))).toBe('internal')
    expect(await codeOf(authority.timestamp(request()))).toBe('internal')
  })

  test.each([
    ['no time source in production', { production: true }],
    ['no chain', { chain: [] }],
    ['a leaf alone', { chain: signer.chain.slice(0, 1) }],
    ['the chain upside down', { chain: signer.chain.toReversed() }],
    ['a root twice', { chain: [...signer.chain, ...signer.chain.slice(1)].slice(1) }],
    ['bytes that are no certificate', { chain: [Uint8Array.of(1), Uint8Array.of(2)] }],
    ['an expired chain', { now: () => NOW + 31 * 86_400_000 }],
    ['a chain that is not valid yet', { now: () => NOW - 2 * 86_400_000 }],
    [
      'a key that is for something else',
      {
        agent: {
          ...signer,
          key: async (name: string) => ({ ...(await signer.key(name)), purposes: ['set'] as const }),
        },
      },
    ],
  ] as readonly [string, Partial<TimestampAuthorityOptions>][])('an authority with %s', async (_, changes) => {
    expect(await codeOf(createTimestampAuthority(optionsWith(changes)))).toBe('configuration')
  })

  test('an authority with the root of another or a key that is not its own', async () => {
    const other = await makeSigner(new Date(NOW))
    const mixed = [...signer.chain.slice(0, 1), ...other.chain.slice(1)]
    expect(await codeOf(createTimestampAuthority(optionsWith({ chain: mixed })))).toBe('configuration')
    expect(await codeOf(createTimestampAuthority(optionsWith({ chain: other.chain })))).toBe('configuration')
  })

  const flags = x509.KeyUsageFlags
  const eku = (oids: string[], critical: boolean): x509.Extension => new x509.ExtendedKeyUsageExtension(oids, critical)
  const signing = new x509.KeyUsagesExtension(flags.digitalSignature, true)
  test.each([
    ['P-384', { curve: 'P-384' }],
    ['no subject', { name: '' }],
    ['an EKU that is not critical', { extensions: [signing, eku([OID.timeStamping], false)] }],
    ['a second EKU', { extensions: [signing, eku([OID.timeStamping, OID.codeSigning], true)] }],
    ['another EKU', { extensions: [signing, eku([OID.codeSigning], true)] }],
    ['no EKU', { extensions: [signing] }],
    ['no key usage', { extensions: [eku([OID.timeStamping], true)] }],
    [
      'a key usage of certificate signing',
      {
        extensions: [
          new x509.KeyUsagesExtension(flags.digitalSignature | flags.keyCertSign, true),
          eku([OID.timeStamping], true),
        ],
      },
    ],
    ['a CA flag', { extensions: [...PROFILE, new x509.BasicConstraintsExtension(true)] }],
  ] as readonly [string, LeafChanges][])('an authority whose leaf has %s', async (_, changes) => {
    const wrong = await makeSigner(new Date(NOW), changes)
    expect(await codeOf(createTimestampAuthority(optionsWith({ agent: wrong, chain: wrong.chain })))).toBe(
      'configuration',
    )
    expect(parseCertificate(wrong.chain[1] ?? new Uint8Array(0)).basicConstraints?.ca).toBe(true)
  })
})

describe('inspectTimestampResponse', () => {
  test('refuses what is no granted response', async () => {
    const response = await (await createTimestampAuthority(optionsWith())).timestamp(request())
    for (const bytes of [
      new Uint8Array(0),
      Uint8Array.of(0x30, 0),
      Uint8Array.of(...response, 0),
      response.subarray(0, 80),
    ]) {
      expect(() => inspectTimestampResponse(bytes)).toThrow(TimestampError)
    }
  })
})
