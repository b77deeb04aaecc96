/**
 * Signs and verifies with sigstore-js, whose packages are those of the cache folder given, not ours: a foreign client.
 *
 *   node sigstore-js.ts FOLDER sign   {signingConfig, tokenFile, artifact, kind, predicateType?, bundle}
 *   node sigstore-js.ts FOLDER legacy {ca, rekor, tsa, tokenFile, artifact, bundle}      DSSE as intoto 0.0.2
 *   node sigstore-js.ts FOLDER verify {trustedRoot, artifact, bundle, identity, issuer}
 *   node sigstore-js.ts FOLDER verify-tuf {mirror, rootFile, cache, artifact, bundle, identity, issuer}
 */
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const [folder = '', command, json = '{}'] = process.argv.slice(2)
const options = JSON.parse(json) as Record<string, string>
const require = createRequire(join(folder, 'package.json'))

/** The two functions of the package `sigstore` that are called; it is no dependency of ours. */
interface SigstoreLibrary {
  attest(
    payload: Uint8Array,
    payloadType: string,
    options: Readonly<Record<string, string | boolean>>,
  ): Promise<unknown>
  verify(bundle: unknown, artifact: Uint8Array, options: Readonly<Record<string, string>>): Promise<unknown>
}

const inTotoType = 'application/vnd.in-toto+json'

switch (command) {
  case 'sign':
    await sign()
    break
  case 'legacy':
    await signLegacy()
    break
  case 'verify':
    await verify()
    break
  case 'verify-tuf':
    await verifyWithTuf()
    break
  default:
    throw new Error(`unknown command ${command}`)
}

/** With the services of a signing configuration; attestations as the library does by itself. */
async function sign(): Promise<void> {
  const { bundleBuilderFromSigningConfig } = require('@sigstore/sign') as typeof import('@sigstore/sign')
  const { bundleToJSON } = require('@sigstore/bundle') as typeof import('@sigstore/bundle')
  const { SigningConfig } = require('@sigstore/protobuf-specs') as typeof import('@sigstore/protobuf-specs')
  const attestation = option('kind') === 'attestation'
  const builder = bundleBuilderFromSigningConfig({
    signingConfig: SigningConfig.fromJSON(JSON.parse(text('signingConfig'))),
    identityProvider: { getToken: () => Promise.resolve(text('tokenFile').trim()) },
    bundleType: attestation ? 'dsseEnvelope' : 'messageSignature',
  })
  const artifact = readFileSync(option('artifact'))
  const bundle = await builder.create(attestation ? { data: artifact, type: inTotoType } : { data: artifact })
  writeFileSync(option('bundle'), JSON.stringify(bundleToJSON(bundle)))
}

async function signLegacy(): Promise<void> {
  const sigstore = require('sigstore') as SigstoreLibrary
  const bundle = await sigstore.attest(readFileSync(option('artifact')), inTotoType, {
    fulcioURL: option('ca'),
    rekorURL: option('rekor'),
    tsaServerURL: option('tsa'),
    identityToken: text('tokenFile').trim(),
    legacyCompatibility: true,
  })
  writeFileSync(option('bundle'), JSON.stringify(bundle))
}

async function verify(): Promise<void> {
  const { toSignedEntity, toTrustMaterial, Verifier } = require('@sigstore/verify') as typeof import('@sigstore/verify')
  const { bundleFromJSON } = require('@sigstore/bundle') as typeof import('@sigstore/bundle')
  const { TrustedRoot } = require('@sigstore/protobuf-specs') as typeof import('@sigstore/protobuf-specs')
  const bundle = bundleFromJSON(JSON.parse(text('bundle')))
  const artifact = readFileSync(option('artifact'))
  const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(text('trustedRoot')))))
  const payload = bundle.content.$case === 'dsseEnvelope' ? bundle.content.dsseEnvelope.payload : undefined
  const entity = payload === undefined ? toSignedEntity(bundle, artifact) : toSignedEntity(bundle)
  verifier.verify(entity, {
    subjectAlternativeName: option('identity'),
    extensions: { issuer: option('issuer') },
  })
  if (payload !== undefined) requireSubject(payload, artifact)
}

async function verifyWithTuf(): Promise<void> {
  const sigstore = require('sigstore') as SigstoreLibrary
  await sigstore.verify(JSON.parse(text('bundle')), readFileSync(option('artifact')), {
    tufMirrorURL: option('mirror'),
    tufRootPath: option('rootFile'),
    tufCachePath: option('cache'),
    certificateIdentityEmail: option('identity'),
    certificateIssuer: option('issuer'),
  })
}

/** The library leaves it to its caller to compare the statement's subjects with the artifact. */
function requireSubject(payload: Uint8Array, artifact: Uint8Array): void {
  const statement = JSON.parse(Buffer.from(payload).toString('utf8')) as {
    subject: readonly { digest: { sha256?: string } }[]
  }
  const digest = createHash('sha256').update(artifact).digest('hex')
  if (!statement.subject.some((subject) => subject.digest.sha256 === digest)) {
    throw new Error('no subject of the statement has the digest of the artifact')
  }
}

function option(name: string): string {
  const value = options[name]
  if (value === undefined) throw new Error(`option ${name} is missing`)
  return value
}

function text(name: string): string {
  return readFileSync(option(name), 'utf8')
}
