import { describe, expect, test } from 'vitest'
import type { EndpointAnswer, EndpointRequest } from '#http'
import { decodePem, integer, nullValue, objectIdentifier, octetString, sequence } from '#x509'
import { TimestampError, createTimestampAuthority, inspectTimestampResponse, timestampSection } from '#timestamp'
import type { TimestampAuthority, TimestampErrorCode } from '#timestamp'
import { makeSigner } from './test-chain.ts'

const NOW = Date.UTC(2026, 7, 20, 10)
const signer = await makeSigner(new Date(NOW))
const authority = await createTimestampAuthority({
  agent: signer,
  key: 'tsa',
  chain: signer.chain,
  now: () => NOW,
  production: false,
})
const DER = sequence(
  integer(1),
  sequence(sequence(objectIdentifier('2.16.840.1.101.3.4.2.1'), nullValue()), octetString(new Uint8Array(32))),
)
const JSON_BODY = Buffer.from(
  JSON.stringify({ artifactHash: Buffer.alloc(32).toString('base64'), hashAlgorithm: 'sha256' }),
)

async function ask(
  method: string,
  path: string,
  given: Partial<EndpointRequest> = {},
  of: Pick<TimestampAuthority, 'chain' | 'timestamp'> = authority,
): Promise<EndpointAnswer> {
  const endpoint = timestampSection(of).endpoints.find(
    (candidate) => candidate.method === method && candidate.path === path,
  )
  if (endpoint === undefined) throw new Error(`${method} ${path} is not there`)
  return endpoint.answer({
    method,
    path,
    params: {},
    query: new URLSearchParams(),
    headers: {},
    body: new Uint8Array(0),
    requestId: 'r-1',
    signal: new AbortController().signal,
    ...given,
  })
}
const post = (
  contentType: string | undefined,
  body: Uint8Array,
  of?: Pick<TimestampAuthority, 'chain' | 'timestamp'>,
): Promise<EndpointAnswer> => ask('POST', '/api/v1/timestamp', { headers: { 'content-type': contentType }, body }, of)

describe('POST /api/v1/timestamp', () => {
  test.each([
    ['application/timestamp-query', DER],
    ['Application/Timestamp-Query; charset=binary', DER],
    ['application/json', JSON_BODY],
    ['application/json;charset=utf-8', JSON_BODY],
  ])('answers %s', async (contentType, body) => {
    const answer = await post(contentType, body)
    expect(answer.status).toBe(200)
    expect(answer.headers).toMatchObject({ 'content-type': 'application/timestamp-reply' })
    expect(inspectTimestampResponse(answer.body as Uint8Array).digest).toEqual(new Uint8Array(32))
  })

  test.each([
    ['application/timestamp-query', JSON_BODY, 400],
    ['application/json', DER, 400],
    ['application/timestamp-query', new Uint8Array(0), 400],
    ['text/plain', DER, 415],
    ['application/octet-stream', DER, 415],
    ['', DER, 415],
    [undefined, DER, 415],
  ])('refuses %s with a body that does not fit', async (contentType, body, status) => {
    const answer = await post(contentType, body)
    expect(answer).toMatchObject({ status, headers: { 'content-type': 'application/json' } })
    expect(JSON.parse(String(answer.body))).toEqual({ code: status, message: expect.any(String) })
  })

  test.each([
    ['busy', 503],
    ['unavailable', 503],
    ['time_not_available', 503],
    ['weak_hash', 400],
    ['unaccepted_policy', 400],
    ['internal', 500],
    ['configuration', 500],
  ] as const)('answers %s by %i', async (code: TimestampErrorCode, status) => {
    const failing = {
      chain: signer.chain,
      timestamp: () => Promise.reject(new TimestampError(code, 'what went wrong')),
    }
    const answer = await post('application/timestamp-query', DER, failing)
    expect(answer.status).toBe(status)
    expect(answer.headers?.['retry-after']).toBe(status === 503 ? '2' : undefined)
    expect(String(answer.body).includes('what went wrong')).toBe(status !== 500)
  })

  test('lets an unknown error rise', async () => {
    const failing = { chain: signer.chain, timestamp: () => Promise.reject(new TypeError('bug')) }
    await expect(post('application/timestamp-query', DER, failing)).rejects.toThrow(TypeError)
  })
})

test('the chain is served leaf first', async () => {
  const answer = await ask('GET', '/api/v1/timestamp/certchain')
  expect(answer.headers?.['content-type']).toBe('application/pem-certificate-chain')
  expect(decodePem(String(answer.body)).map(({ der }) => der)).toEqual(signer.chain)
})

test.each(['GET', 'HEAD'])('%s /ping', async (method) => {
  expect(await ask(method, '/ping')).toMatchObject({ status: 200, body: '.' })
})

test('faults are never 2xx', () => {
  const { faults } = timestampSection(authority)
  const answers = [
    faults.notFound('/x'),
    faults.methodNotAllowed('PUT', '/x'),
    faults.tooLarge(1),
    faults.timedOut(),
    faults.internal('r'),
    faults.overloaded(),
  ]
  expect(answers.map(({ status }) => status)).toEqual([404, 405, 413, 408, 500, 503])
})
