import type { Logger } from 'pino'
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from '#http'
import { encodePem } from '#x509'
import type { Authority, Issued } from './authority.ts'
import { CaError, type CaErrorCode } from './error.ts'
import { apiLatency, httpRequests, newCertificates, refusals } from './metrics.ts'
import type { RequestedKey } from './possession.ts'
import { bytesField, type Message, messageField, readMessage, refuseBoth, stringField } from './protojson.ts'

/** A request holds one token and one key or CSR; Fulcio's own bound is 4 MiB. */
const REQUEST_LIMIT_BYTES = 256 * 1024
const RETRY_AFTER_SECONDS = '2'
const PEM_CHAIN_TYPE = 'application/pem-certificate-chain'

/** Fulcio's REST interface, v1 and v2; the gRPC gateway's shapes, without gRPC. */
export function caSection(
  authority: Authority,
  options: { readonly logger?: Pick<Logger, 'warn' | 'error'> } = {},
): Section {
  const chainPems = () => authority.chain.map(issuerPem)
  const post = (path: string, answer: Endpoint['answer']): Endpoint => ({
    method: 'POST',
    path,
    limitBytes: REQUEST_LIMIT_BYTES,
    answer: answering(answer, options.logger),
  })
  const get = (path: string, answer: () => EndpointAnswer): Endpoint => ({ method: 'GET', path, limitBytes: 0, answer })
  return {
    name: 'ca',
    endpoints: [
      post('/api/v2/signingCert', async (request) =>
        v2Certificate(await issue(authority, request, readV2Request(request))),
      ),
      post('/api/v1/signingCert', async (request) =>
        v1Certificate(await issue(authority, request, readV1Request(request))),
      ),
      get('/api/v2/trustBundle', () => json(200, { chains: [{ certificates: chainPems() }] })),
      get('/api/v1/rootCert', () => pemChain(200, chainPems())),
      get('/api/v2/configuration', () => json(200, configuration(authority))),
      get('/healthz', () => json(200, { status: 'SERVING' })),
    ],
    faults: {
      notFound: () => fault(404, 5, 'Not Found'),
      // grpc-gateway answers a wrong method on a known path by "unimplemented".
      methodNotAllowed: () => fault(501, 12, 'Method Not Allowed'),
      tooLarge: () => fault(400, 3, 'http: request body too large'),
      timedOut: () => fault(408, 4, 'the body did not arrive in time'),
      internal: (requestId) => fault(500, 13, `internal error, request ${requestId}`),
      overloaded: () => retriable(fault(503, 14, 'too many requests are under way')),
    },
    corsRequestHeaders: ['content-type', 'authorization', 'accept'],
    observe: ({ method, status, seconds }) => {
      const labels = { code: String(status), method: method.toLowerCase() }
      apiLatency.observe(labels, seconds)
      httpRequests.inc(labels)
    },
  }
}

interface Call {
  readonly token: string
  readonly key: RequestedKey
}

async function issue(authority: Authority, request: EndpointRequest, call: Call): Promise<Issued> {
  const issued = await authority.issue({ ...call, signal: request.signal })
  newCertificates.inc()
  return issued
}

/** dev.sigstore.fulcio.v2.CreateSigningCertificateRequest. */
function readV2Request(request: EndpointRequest): Call {
  const body = readMessage(request.body)
  refuseBoth(body, 'publicKeyRequest', 'certificateSigningRequest')
  const keyRequest = messageField(body, 'publicKeyRequest')
  const credentials = messageField(body, 'credentials')
  // The algorithm is ignored, as by Fulcio: sigstore-go sends one that the protocol does not know.
  const encoded = Buffer.from(stringField(keyRequest && messageField(keyRequest, 'publicKey'), 'content'))
  return {
    token: stringField(credentials, 'oidcIdentityToken') || headerToken(request),
    key: chooseKey(body, { kind: 'publicKey', encoded, proof: bytesField(keyRequest, 'proofOfPossession') }),
  }
}

/** dev.sigstore.fulcio.v1beta.CreateSigningCertificateRequest; CSR and key are not a oneof here, the CSR wins. */
function readV1Request(request: EndpointRequest): Call {
  const body = readMessage(request.body)
  const publicKey = messageField(body, 'publicKey')
  const encoded = bytesField(publicKey, 'content')
  const key = chooseKey(body, { kind: 'publicKey', encoded, proof: bytesField(body, 'signedEmailAddress') })
  // Fulcio looks at the token only after this.
  if (key.kind === 'publicKey' && publicKey === undefined)
    throw new CaError('invalid_public_key', 'no public key was given')
  return { token: headerToken(request), key }
}

function chooseKey(body: Message, otherwise: RequestedKey): RequestedKey {
  const pem = bytesField(body, 'certificateSigningRequest')
  return pem.length > 0 ? { kind: 'csr', pem } : otherwise
}

/** The Authorization header with or without its scheme. */
function headerToken(request: EndpointRequest): string {
  return (request.headers.authorization ?? '').replace(/^Bearer /i, '').trim()
}

function v2Certificate(issued: Issued): EndpointAnswer {
  const certificates = pemsOf(issued)
  return json(200, { signedCertificateEmbeddedSct: { chain: { certificates } } }, logFields(issued))
}

function v1Certificate(issued: Issued): EndpointAnswer {
  return { ...pemChain(201, pemsOf(issued)), log: logFields(issued) }
}

/** The certificate and the chain that it was issued under, each without its last line end. */
function pemsOf({ chain: [leaf = new Uint8Array(), ...issuers] }: Issued): readonly string[] {
  return [encodePem('CERTIFICATE', leaf), ...issuers.map(issuerPem)].map((pem) => pem.trimEnd())
}

/** Every answer ends with the same few: each is encoded once. */
const issuerPems = new WeakMap<Uint8Array, string>()

function issuerPem(der: Uint8Array): string {
  const known = issuerPems.get(der) ?? encodePem('CERTIFICATE', der)
  issuerPems.set(der, known)
  return known
}

function pemChain(status: number, pems: readonly string[]): EndpointAnswer {
  return { status, headers: { 'content-type': PEM_CHAIN_TYPE }, body: pems.join('\n').trim() }
}

function logFields({ issuer, serialHex, principal }: Issued): Record<string, string> {
  return { issuer, serial: serialHex, subject: principal.subjectAltName.value }
}

/** dev.sigstore.fulcio.v2.Configuration; protojson shows unset fields. */
function configuration({ issuers }: Authority): unknown {
  return {
    issuers: issuers.map((policy) => ({
      ...(policy.issuerUrl === undefined ? { wildcardIssuerUrl: policy.pattern } : { issuerUrl: policy.issuerUrl }),
      audience: policy.audience,
      challengeClaim: policy.challengeClaim,
      spiffeTrustDomain: policy.spiffeTrustDomain ?? '',
      issuerType: policy.type,
      subjectDomain: policy.subjectDomain ?? '',
      skipEmailVerification: policy.skipEmailVerification,
    })),
  }
}

interface Form {
  readonly status: number
  /** google.rpc.Code. */
  readonly code: number
  /** Fulcio's text; the reason follows where it may be told. */
  readonly text: string
  /** Ours is the fault: the client gets the text alone. */
  readonly secret?: true
}

const invalid = (text: string): Form => ({ status: 400, code: 3, text })
const unavailable = (text: string): Form => ({ status: 503, code: 14, text, secret: true })

/** Every identity fault is 400, never 401: clients retry neither, and expect the former. 503 is our own, see docs. */
const FORM = {
  invalid_identity_token: invalid('There was an error processing the identity token'),
  invalid_public_key: invalid('The public key supplied in the request could not be parsed'),
  insecure_public_key: invalid('The public key supplied in the request is insecure'),
  invalid_csr: invalid('The certificate signing request could not be parsed'),
  invalid_signature: invalid('The signature supplied in the request could not be verified'),
  algorithm_not_permitted: invalid('The signing algorithm is not permitted'),
  not_admitted: invalid('The identity is not admitted'),
  invalid_identity: invalid('The identity cannot be certified'),
  invalid_request: invalid('The request could not be read'),
  busy: unavailable('Too many requests are under way'),
  hsm_unavailable: unavailable('The certificate authority cannot sign just now'),
  log_unavailable: unavailable('Error entering certificate in CTL'),
  authority_expired: { status: 500, code: 13, text: 'The certificate of the authority ends too soon', secret: true },
  internal: { status: 500, code: 13, text: 'error communicating with CA backend', secret: true },
  cancelled: { status: 499, code: 1, text: 'The client went away', secret: true },
} satisfies Record<CaErrorCode, Form>

function answering(answer: Endpoint['answer'], logger: Pick<Logger, 'warn' | 'error'> | undefined): Endpoint['answer'] {
  return async (request) => {
    try {
      return await answer(request)
    } catch (error) {
      if (!(error instanceof CaError)) throw error
      refusals.inc({ reason: error.code })
      const form: Form = FORM[error.code]
      if (form.secret === true) logger?.error({ err: error, requestId: request.requestId }, 'no certificate was issued')
      const refused = fault(form.status, form.code, form.secret === true ? form.text : `${form.text}: ${error.message}`)
      const logged = { ...refused, log: { refused: error.code, reason: error.message } }
      return form.status === 503 ? retriable(logged) : logged
    }
  }
}

function retriable(answer: EndpointAnswer): EndpointAnswer {
  return { ...answer, headers: { ...answer.headers, 'retry-after': RETRY_AFTER_SECONDS } }
}

function fault(status: number, code: number, message: string): EndpointAnswer {
  return json(status, { code, message, details: [] })
}

function json(status: number, value: unknown, log?: Record<string, string>): EndpointAnswer {
  const answer = { status, headers: { 'content-type': 'application/json' }, body: JSON.stringify(value) }
  return log === undefined ? answer : { ...answer, log }
}
