/**
 * What all end-to-end tests share: one running stack, one local OCI registry, an issuer that signs whatever a test
 * wants signed, and the trust material as a client has it after it fetched it from our mirror.
 */
import { spawn } from 'node:child_process'
import { createServer } from 'node:http'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { initTUF } from '@sigstore/tuf'
import { exportJWK, generateKeyPair, type JWK } from 'jose'
import type { TestProject } from 'vitest/node'
import { parse as parseYaml, stringify as stringifyYaml } from 'yaml'
import { client, clientsFolder, type LogVersion, type Material, signers, system } from './clients.ts'
import { packetsThatLeft } from './isolation.ts'
import { succeeded } from './run.ts'
import { type Endpoints, initialise, runChancery, serve } from './stack.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    readonly stack: SharedStack
  }
}

export interface SharedStack {
  readonly dataDir: string
  readonly endpoints: Endpoints
  readonly material: Material
  /** `host:port` of an OCI registry. */
  readonly registry: string
  /** A second issuer, configured at the CA, whose private key the tests have. */
  readonly issuer: { readonly url: string; readonly privateJwk: JWK }
  /** A folder for what the tests make. */
  readonly scratch: string
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  packetsThatLeft()
  const scratch = mkdtempSync(join(tmpdir(), 'chancery-e2e-'))
  const closers: (() => Promise<void>)[] = [async () => rmSync(scratch, { recursive: true, force: true })]
  const close = async (): Promise<void> => {
    for (const closer of closers.toReversed()) await closer()
  }
  try {
    const issuer = await startIssuer()
    closers.push(() => issuer.close())
    const dataDir = join(scratch, 'data')
    await initialise(dataDir)
    trustIssuer(dataDir, issuer.url)
    const stack = await serve(dataDir)
    closers.push(() => stack.stop())
    const registry = await startRegistry(join(scratch, 'registry'))
    closers.push(() => registry.close())
    const material = await fetchMaterial(join(scratch, 'material'), stack.endpoints)
    await firstEntries(material, scratch, stack.dataDir)
    project.provide('stack', {
      dataDir,
      endpoints: stack.endpoints,
      material,
      registry: registry.address,
      issuer: { url: issuer.url, privateJwk: issuer.privateJwk },
      scratch,
    })
  } catch (error) {
    await close().catch(() => {})
    throw error
  }
  return close
}

/**
 * One entry in each log before any test's: Go clients leave the log index 0 out of a bundle (proto3 JSON), and
 * sigstore-python wants it there; and a proof in a log of one entry is empty.
 */
export async function firstEntries(material: Material, scratch: string, dataDir: string): Promise<void> {
  const token = succeeded(
    await runChancery(['dev', 'token', '--data', dataDir, '--email', 'first@example.test']),
  ).stdout
  const file = (name: string, content: string): string => {
    const path = join(scratch, name)
    writeFileSync(path, content)
    return path
  }
  const tokenFile = file('first-token', token.trim())
  const artifact = file('first.txt', 'the first entry')
  for (const log of ['v1', 'v2'] as const) {
    const bundle = join(scratch, `first-${log}.json`)
    const unused = { statement: artifact, predicate: artifact }
    succeeded(await signers['sigstore-go']({ material, log, kind: 'blob', artifact, tokenFile, bundle, ...unused }))
  }
}

/** Adds an issuer of e-mail identities to the CA's configuration, in Fulcio's own format. */
function trustIssuer(dataDir: string, url: string): void {
  const config = parseYaml(readFileSync(join(dataDir, 'chancery.yaml'), 'utf8')) as { ca: { issuers: string } }
  const file = join(dataDir, config.ca.issuers)
  const issuers = parseYaml(readFileSync(file, 'utf8')) as Record<string, Record<string, unknown>>
  const section = Object.keys(issuers).find((key) => /^oidc-?issuers$/i.test(key)) ?? 'oidc-issuers'
  const existing = Object.values(issuers[section] ?? {})[0] as Record<string, unknown> | undefined
  const hyphenated = existing === undefined || 'issuer-url' in existing
  issuers[section] = {
    ...issuers[section],
    [url]: hyphenated
      ? { 'issuer-url': url, 'client-id': 'sigstore', type: 'email' }
      : { IssuerURL: url, ClientID: 'sigstore', Type: 'email' },
  }
  writeFileSync(file, stringifyYaml(issuers))
}

async function startIssuer(): Promise<{ url: string; privateJwk: JWK; close: () => Promise<void> }> {
  const { privateKey, publicKey } = await generateKeyPair('RS256', { extractable: true })
  const publicJwk = { ...(await exportJWK(publicKey)), kid: 'test', alg: 'RS256', use: 'sig' }
  const server = createServer((request, response) => {
    const documents: Record<string, unknown> = {
      '/.well-known/openid-configuration': {
        issuer: url,
        jwks_uri: `${url}/keys`,
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: ['RS256'],
      },
      '/keys': { keys: [publicJwk] },
    }
    const found = documents[request.url ?? '']
    response.writeHead(found === undefined ? 404 : 200, { 'content-type': 'application/json' })
    response.end(JSON.stringify(found ?? {}))
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    url,
    privateJwk: { ...(await exportJWK(privateKey)), kid: 'test', alg: 'RS256' },
    close: async () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

async function startRegistry(folder: string): Promise<{ address: string; close: () => Promise<void> }> {
  mkdirSync(folder, { recursive: true })
  const address = `127.0.0.1:${await freePort()}`
  const child = spawn(
    join(clientsFolder, 'bin', 'crane'),
    ['registry', 'serve', '--address', address, '--disk', folder],
    {
      stdio: 'ignore',
      env: { HOME: folder, PATH: '/usr/bin:/bin' },
    },
  )
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve())
  })
  for (let tries = 0; ; tries += 1) {
    if (
      await fetch(`http://${address}/v2/`).then(
        ({ ok }) => ok,
        () => false,
      )
    )
      break
    if (tries > 200) throw new Error('the registry did not start')
    await delay(50)
  }
  return {
    address,
    close: async () => {
      child.kill('SIGKILL')
      await ended
    },
  }
}

async function freePort(): Promise<number> {
  const probe = createTcpServer()
  await new Promise<void>((resolve) => {
    probe.listen(0, '127.0.0.1', resolve)
  })
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => {
    probe.close(resolve)
  })
  return port
}

/** Everything a client needs, from the mirror's address and the checksum of its first root alone. */
export async function fetchMaterial(folder: string, endpoints: Endpoints): Promise<Material> {
  mkdirSync(folder, { recursive: true })
  const file = (name: string): string => join(folder, name)
  succeeded(await system('curl', ['-sSf', '-o', file('root.json'), `${endpoints.tuf}/1.root.json`]))
  const digest = succeeded(await system('sha256sum', [file('root.json')])).stdout.split(' ')[0]
  if (digest !== endpoints.rootChecksum) throw new Error(`1.root.json has checksum ${digest}, not the one printed`)

  const tuf = await initTUF({
    mirrorURL: endpoints.tuf,
    rootPath: file('root.json'),
    cachePath: file('js-cache'),
    forceInit: true,
  })
  const fetchTarget = async (name: string): Promise<string> => {
    const target = file(name)
    writeFileSync(target, await tuf.getTarget(name))
    return target
  }
  const trustedRoot = await fetchTarget('trusted_root.json')
  const signingConfig = {
    v1: await fetchTarget('signing_config.v0.2.json'),
    v2: await fetchTarget('signing_config_rekor_v2.v0.2.json'),
  }
  const trustConfig = (version: LogVersion): string => {
    const target = file(`trust-config-${version}.json`)
    writeFileSync(
      target,
      JSON.stringify({
        mediaType: 'application/vnd.dev.sigstore.clienttrustconfig.v0.1+json',
        trustedRoot: JSON.parse(readFileSync(trustedRoot, 'utf8')),
        signingConfig: JSON.parse(readFileSync(signingConfig[version], 'utf8')),
      }),
    )
    return target
  }
  const tufRoot = { cosign3: file('tuf-cosign3'), cosign2: file('tuf-cosign2') }
  for (const name of ['cosign3', 'cosign2'] as const) {
    succeeded(
      await client(
        name,
        [
          'initialize',
          '--mirror',
          endpoints.tuf,
          '--root',
          file('root.json'),
          '--root-checksum',
          endpoints.rootChecksum,
        ],
        { env: { TUF_ROOT: tufRoot[name] } },
      ),
    )
  }
  const timestamp = endpoints.tsa.endsWith('/api/v1/timestamp') ? endpoints.tsa : `${endpoints.tsa}/api/v1/timestamp`
  return {
    ca: endpoints.ca,
    rekorV1: endpoints.rekorV1,
    timestamp,
    tuf: endpoints.tuf,
    trustedRoot,
    signingConfig,
    trustConfig: { v1: trustConfig('v1'), v2: trustConfig('v2') },
    rootJson: file('root.json'),
    tufRoot,
  }
}
