import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'

/** A real OpenID Connect issuer on loopback: discovery and key set over HTTP, tokens signed by keys made for the test. */
export interface TestIssuer {
  readonly url: string
  /** Paths asked for so far. */
  readonly requests: string[]
  /** What the next answers are; change it to make the issuer misbehave. */
  readonly documents: Map<string, Answer>
  /** A token with usual claims, those given laid over them; undefined removes one. */
  token(claims?: Record<string, unknown>, header?: { alg?: string; kid?: string; key?: CryptoKey }): Promise<string>
  /** Replaces the key and publishes the new one. */
  rotate(keyId?: string): Promise<void>
  publicJwk(): JWK
  close(): Promise<void>
}

export interface Answer {
  readonly status?: number
  readonly headers?: Record<string, string>
  readonly body?: unknown
}

/** Making RSA keys takes longer than everything else in these tests. */
const firstKeys = new Map<string, ReturnType<typeof makeKeys>>()

function makeKeys(algorithm: string) {
  return generateKeyPair(algorithm, { extractable: true })
}

export async function startIssuer(options: {
  algorithm?: string
  nowSeconds: () => number
  path?: string
}): Promise<TestIssuer> {
  const algorithm = options.algorithm ?? 'RS256'
  const documents = new Map<string, Answer>()
  const requests: string[] = []
  const server = createServer((request, response) => {
    requests.push(request.url ?? '')
    const answer = documents.get(request.url ?? '') ?? { status: 404, body: {} }
    response.writeHead(answer.status ?? 200, { 'content-type': 'application/json', ...answer.headers })
    response.end(typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body ?? {}))
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const path = options.path ?? ''
  const url = origin + path

  let current: { keyId: string; privateKey: CryptoKey; jwk: JWK }
  let firstRotation = true
  const rotate = async (keyId = `key-${requests.length}-${Math.random()}`): Promise<void> => {
    const keys = firstRotation ? (firstKeys.get(algorithm) ?? makeKeys(algorithm)) : makeKeys(algorithm)
    if (firstRotation) firstKeys.set(algorithm, keys)
    firstRotation = false
    const { privateKey, publicKey } = await keys
    current = { keyId, privateKey, jwk: { ...(await exportJWK(publicKey)), kid: keyId, use: 'sig', alg: algorithm } }
    documents.set(`${path}/keys`, { body: { keys: [current.jwk] } })
  }
  await rotate('first')
  documents.set(`${path}/.well-known/openid-configuration`, {
    body: { issuer: url, jwks_uri: `${url}/keys`, id_token_signing_alg_values_supported: [algorithm] },
  })

  return {
    url,
    requests,
    documents,
    rotate,
    publicJwk: () => current.jwk,
    async token(claims = {}, header = {}) {
      const now = options.nowSeconds()
      const body = {
        iss: url,
        aud: 'sigstore',
        sub: 'subject-1',
        iat: now,
        exp: now + 300,
        email: 'jo@example.com',
        email_verified: true,
        ...claims,
      }
      return await new SignJWT(body)
        .setProtectedHeader({ alg: header.alg ?? algorithm, kid: header.kid ?? current.keyId })
        .sign(header.key ?? current.privateKey)
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => {
          resolve()
        })
      }),
  }
}
