/**
 * The development issuer: an OpenID provider that believes whoever asks. It exists so that a laptop has the whole of a
 * private Sigstore without an identity provider; the production profile refuses to run it.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { randomBytes } from 'node:crypto'
import { errors, interactionPolicy, Provider, type Interaction } from 'oidc-provider'
import { MemoryStore } from './development-issuer-store.ts'
import { emailPage, faultPage } from './development-issuer-page.ts'
import { DEVELOPMENT_CLIENT, DevelopmentError, developmentKey, isEmail, rememberIssuer } from './development-token.ts'

/** An ID token lives as long as a certificate: enough to sign, too short to keep. */
const TOKEN_SECONDS = 600
/** Time to type an e-mail address. */
const INTERACTION_SECONDS = 3_600
/** A form with one field. */
const FORM_LIMIT_BYTES = 4_096

export interface DevelopmentIssuerOptions {
  /** Its key is kept in `dev-issuer/` below this folder. */
  readonly dataDir: string
  /** `host:port`; port 0 takes a free one. */
  readonly listen: string
  /** What goes into `iss` and what clients dial; `http://` and where it listens by default. */
  readonly issuerUrl?: string
}

/**
 * Starts the issuer. Its RS256 key is made at the first start and is also what `chancery dev token` signs with. Throws
 * `DevelopmentError` for a taken port.
 */
export async function startDevelopmentIssuer(
  options: DevelopmentIssuerOptions,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const key = await developmentKey(options.dataDir)
  let handle: Handle = (_request, response) => void response.writeHead(503).end()
  const server = createServer({ headersTimeout: 10_000, requestTimeout: 20_000, maxHeaderSize: 16 << 10 }, (...of) =>
    handle(...of),
  )
  server.maxConnections = 256
  const bound = await bind(server, options.listen)
  const url = (options.issuerUrl ?? bound).replace(/\/$/, '')
  const provider = new Provider(url, configuration({ ...key.privateJwk, use: 'sig' }))
  provider.proxy = url.startsWith('https:')
  handle = handler(provider, url)
  rememberIssuer(options.dataDir, url)
  let closing: Promise<void> | undefined
  return {
    url,
    close() {
      closing ??= new Promise((resolve) => {
        server.close(() => resolve())
        setTimeout(() => server.closeAllConnections(), 1_000).unref()
      })
      return closing
    },
  }
}

type Handle = (request: IncomingMessage, response: ServerResponse) => void

function bind(server: Server, listen: string): Promise<string> {
  const { hostname, port } = new URL(`http://${listen}`)
  const host = hostname.replace(/^\[|\]$/g, '')
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const why = cause.code === 'EADDRINUSE' ? 'another program already listens there' : cause.message
      reject(
        new DevelopmentError('cannot_listen', `the development issuer cannot listen on ${listen}: ${why}`, { cause }),
      )
    })
    // Port 80 is dropped by URL.
    server.listen(port === '' ? 80 : Number(port), host, () => {
      // Bound to host and port, so it is never a path or null.
      const address = server.address() as AddressInfo
      resolve(`http://${hostname}:${address.port}`)
    })
  })
}

function configuration(signingJwk: object): Record<string, unknown> {
  const loopback = ['localhost', '127.0.0.1', '[::1]']
  return {
    clients: [
      {
        client_id: DEVELOPMENT_CLIENT,
        client_name: 'Sigstore clients',
        // Of a native client's loopback redirects any port is taken (RFC 8252 §7.3).
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        grant_types: ['authorization_code'],
        response_types: ['code'],
        redirect_uris: loopback.map((host) => `http://${host}/auth/callback`),
        id_token_signed_response_alg: 'RS256',
      },
    ],
    jwks: { keys: [signingJwk] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    // The e-mail belongs in the ID token, where every Sigstore client and Fulcio look for it.
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], email: ['email', 'email_verified'] },
    scopes: ['openid', 'email'],
    pkce: { required: () => true },
    adapter: MemoryStore,
    clientAuthMethods: ['none'],
    responseTypes: ['code'],
    features: {
      pushedAuthorizationRequests: { enabled: false },
      dPoP: { enabled: false },
      devInteractions: { enabled: false },
      rpInitiatedLogout: { enabled: false },
    },
    clientBasedCORS: () => false,
    interactions: {
      policy: oneQuestion(),
      url: (_: unknown, interaction: Interaction) => `/interaction/${interaction.uid}`,
    },
    findAccount: (_: unknown, email: string) => ({
      accountId: email,
      claims: () => ({ sub: email, email, email_verified: true }),
    }),
    loadExistingGrant: grantEverything,
    renderError: (context: { type: string; body: string }, out: { error: string; error_description?: string }) => {
      context.type = 'html'
      context.body = faultPage(out.error, out.error_description ?? '')
    },
    ttl: {
      AccessToken: TOKEN_SECONDS,
      AuthorizationCode: 60,
      Grant: INTERACTION_SECONDS,
      IdToken: TOKEN_SECONDS,
      Interaction: INTERACTION_SECONDS,
      Session: INTERACTION_SECONDS,
    },
  }
}

/** Each sign-in asks, and its answer is the person's consent as well. */
function oneQuestion(): unknown {
  const policy = interactionPolicy.base()
  // A native client must not be answered without a person (RFC 8252 §8.6); the login page is that person.
  policy.get('consent').checks.remove('native_client_prompt')
  return policy
}

/** There is nothing to consent to: the client may know the address that was typed for it. */
async function grantEverything(context: import('oidc-provider').OidcContext): Promise<unknown> {
  const { provider, session, client } = context.oidc
  if (session?.accountId === undefined || !client) return undefined
  const grant = new provider.Grant({ accountId: session.accountId, clientId: client.clientId })
  grant.addOIDCScope('openid email')
  await grant.save()
  return grant
}

function handler(provider: Provider, url: string): Handle {
  const answer = provider.callback()
  const { host, protocol } = new URL(url)
  return (request, response) => {
    forgetSession(request)
    // Every URL that the provider writes is below the issuer's, whatever name it was dialled by.
    request.headers.host = host
    if (protocol === 'https:') request.headers['x-forwarded-proto'] = 'https'
    const path = (request.url ?? '').split('?')[0] ?? ''
    if (path.startsWith('/interaction/')) {
      interact(provider, request, response).catch((error: unknown) => fail(response, error))
    } else if (path === '/') {
      response.writeHead(200, HTML).end(faultPage('development issuer', 'It serves sign-ins that a client began.'))
    } else {
      withoutEmptySecret(request)
      answer(request, response).catch((error: unknown) => fail(response, error))
    }
  }
}

const HTML = {
  'content-type': 'text/html; charset=utf-8',
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
}

/** The page on which a developer says who to be, and its form. */
async function interact(provider: Provider, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { params } = await provider.interactionDetails(request, response)
  const hint = typeof params['login_hint'] === 'string' ? params['login_hint'] : ''
  if (request.method !== 'POST') {
    response.writeHead(200, HTML).end(emailPage({ email: hint }))
    return
  }
  const form = new URLSearchParams(await readForm(request))
  const email = (form.get('email') ?? '').trim()
  if (!isEmail(email)) {
    response.writeHead(400, HTML).end(emailPage({ email, fault: 'That is not an e-mail address.' }))
    return
  }
  await provider.interactionFinished(request, response, { login: { accountId: email } })
}

async function readForm(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of request) {
    text += String(chunk)
    if (text.length > FORM_LIMIT_BYTES) throw new DevelopmentError('form_too_large', 'the form is too large')
  }
  return text
}

/** Who signs is asked each time: a cookie that silently answers for yesterday's identity would only confuse. */
function forgetSession(request: IncomingMessage): void {
  const kept = (request.headers.cookie ?? '').split(/; */).filter((cookie) => !/^_session(?:\.|=)/.test(cookie))
  request.headers.cookie = kept.join('; ')
}

/**
 * Go's oauth2 and sigstore-python first send the public client's id with an empty secret as HTTP Basic. The id is in
 * the form as well; a public client has no secret, so the header says nothing.
 */
function withoutEmptySecret(request: IncomingMessage): void {
  const empty = `Basic ${Buffer.from(`${DEVELOPMENT_CLIENT}:`).toString('base64')}`
  if (request.headers.authorization === empty) delete request.headers.authorization
}

function fail(response: ServerResponse, error: unknown): void {
  if (response.headersSent) {
    response.destroy()
    return
  }
  const gone = error instanceof errors.SessionNotFound
  const [title, text] = gone
    ? ['This sign-in is over', 'It was finished or it took too long. Start again from the command line.']
    : ['Something went wrong', 'The development issuer could not answer.']
  response.writeHead(gone ? 400 : 500, HTML).end(faultPage(title, text))
}
