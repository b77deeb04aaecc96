/** Authorization code with PKCE on a loopback redirect (RFC 8252), by openid-client. */
import {
  allowInsecureRequests,
  authorizationCodeGrant,
  buildAuthorizationUrl,
  calculatePKCECodeChallenge,
  type Configuration,
  discovery,
  enableNonRepudiationChecks,
  None,
  randomNonce,
  randomPKCECodeVerifier,
  randomState,
} from 'openid-client'
import { listen, plainFaults, type Section } from '#http'

export type LoginErrorCode = 'issuer_unreachable' | 'not_completed' | 'denied' | 'token_refused'

/** No token was had. */
export class LoginError extends Error {
  readonly code: LoginErrorCode
  constructor(code: LoginErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'LoginError'
    this.code = code
  }
}

export interface LoginOptions {
  readonly issuerUrl: string
  readonly clientId: string
  /** Brings the person to the URL. */
  readonly show: (url: string) => void
  readonly timeoutMs?: number
}

/** Time for a person to find the browser and sign in. */
const LOGIN_TIMEOUT_MS = 300_000
/** The path that issuers know from cosign. */
const CALLBACK_PATH = '/auth/callback'

/** Resolves with an ID token whose signature, issuer, audience and nonce were checked. Throws `LoginError`. */
export async function login(options: LoginOptions): Promise<string> {
  const config = await discover(options)
  const [pkceCodeVerifier, expectedNonce, expectedState] = [randomPKCECodeVerifier(), randomNonce(), randomState()]
  const callback = Promise.withResolvers<URL>()
  const timer = setTimeout(
    () => callback.reject(new LoginError('not_completed', 'nobody signed in; start again')),
    options.timeoutMs ?? LOGIN_TIMEOUT_MS,
  )
  const listener = await listen({
    host: '127.0.0.1',
    port: 0,
    sections: [{ section: callbackSection(expectedState, callback.resolve) }],
  })
  const redirect = `http://localhost:${listener.port}${CALLBACK_PATH}`
  try {
    options.show(
      buildAuthorizationUrl(config, {
        redirect_uri: redirect,
        scope: 'openid email',
        code_challenge: await calculatePKCECodeChallenge(pkceCodeVerifier),
        code_challenge_method: 'S256',
        nonce: expectedNonce,
        state: expectedState,
      }).href,
    )
    const returned = new URL((await callback.promise).search, redirect)
    return await redeem(config, returned, { pkceCodeVerifier, expectedNonce, expectedState })
  } finally {
    clearTimeout(timer)
    await listener.close()
  }
}

async function discover({ issuerUrl, clientId }: LoginOptions): Promise<Configuration> {
  try {
    const issuer = new URL(issuerUrl)
    const config = await discovery(issuer, clientId, undefined, None(), {
      // Plain HTTP is the caller's own choice of issuer URL; discovery of an https one never falls back to it.
      execute: issuer.protocol === 'http:' ? [allowInsecureRequests] : [],
      timeout: 10,
    })
    // Over plain HTTP, and behind a proxy that ends TLS, only the signature speaks for the token.
    enableNonRepudiationChecks(config)
    return config
  } catch (cause) {
    throw new LoginError('issuer_unreachable', `the issuer ${issuerUrl} cannot be used: ${reason(cause)}`, { cause })
  }
}

async function redeem(
  config: Configuration,
  returned: URL,
  checks: { pkceCodeVerifier: string; expectedNonce: string; expectedState: string },
): Promise<string> {
  const denied = returned.searchParams.get('error')
  if (denied !== null) {
    const why = returned.searchParams.get('error_description') ?? denied
    throw new LoginError('denied', `the issuer answered: ${JSON.stringify(why.slice(0, 200))}`)
  }
  try {
    const tokens = await authorizationCodeGrant(config, returned, { ...checks, idTokenExpected: true })
    if (tokens.id_token === undefined) throw new Error('there is no ID token in the answer')
    return tokens.id_token
  } catch (cause) {
    throw new LoginError('token_refused', `the issuer's answer was not accepted: ${reason(cause)}`, { cause })
  }
}

/** Takes the one redirect that carries our state; anything else on this port is not from the sign-in that we began. */
function callbackSection(state: string, arrived: (url: URL) => void): Section {
  return {
    name: 'login',
    faults: plainFaults,
    endpoints: [
      {
        method: 'GET',
        path: CALLBACK_PATH,
        limitBytes: 0,
        answer: ({ query }) => {
          if (query.get('state') !== state) return page(400, 'This is not the sign-in that was begun.')
          arrived(new URL(`?${query.toString()}`, 'http://localhost'))
          return page(200, 'Signed in. You may close this page and go back to the terminal.')
        },
      },
    ],
  }
}

function page(status: number, sentence: string): { status: number; headers: Record<string, string>; body: string } {
  return {
    status,
    headers: { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' },
    body: `<!doctype html><html lang="en"><title>chancery login</title><body style="font:1rem system-ui;margin:3rem"><p>${sentence}</p></body></html>\n`,
  }
}

function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error ? `${error.message}: ${reason(error.cause)}` : error.message
}
