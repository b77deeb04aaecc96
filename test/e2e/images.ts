/** Container images in the tests' registry, and the ways in which somebody signed them. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodePem } from '#x509'
import { type Arguments, client, type Material, system } from './clients.ts'
import { freshFolder, makeArtifact } from './context.ts'
import { type HostileAuthority, type HostileCtLog, trustingToo } from './hostile-authority.ts'
import { succeeded } from './run.ts'

/** Pushes an image of one small layer and returns its reference by digest. */
export async function pushImage(registry: string, name: string): Promise<string> {
  const folder = freshFolder('layer')
  const layer = join(folder, 'layer.tar')
  makeArtifact(folder)
  succeeded(await system('tar', ['-cf', layer, '-C', folder, 'artifact.txt']))
  const reference = `${registry}/${name}`
  succeeded(await client('crane', ['append', '--new_layer', layer, '--new_tag', `${reference}:latest`]))
  const digest = succeeded(await client('crane', ['digest', `${reference}:latest`])).stdout.trim()
  return `${reference}@${digest}`
}

/**
 * How a signature lies in the registry. `legacy`: a tag `sha256-….sig` with the simple signing payload, as cosign 2
 * makes it by default. `bundle`: a Sigstore bundle that refers to the image, as cosign 3 makes it by default.
 */
export type SignatureForm = 'legacy' | 'bundle'

/** Where to sign: what the mirror's files say, and the addresses for those who are told them. */
export type SigningPlace = Pick<Material, 'ca' | 'rekorV1' | 'tufRoot' | 'trustedRoot'>

/** Signs without a key of one's own, with the identity of the token. */
export async function signKeyless(
  place: SigningPlace,
  image: string,
  form: SignatureForm,
  tokenFile: string,
  more: Arguments = [],
): Promise<void> {
  const flags =
    form === 'legacy' ? ['--fulcio-url', place.ca, '--rekor-url', place.rekorV1] : ([] satisfies readonly string[])
  await cosign(place, form, ['sign', '--yes', ...flags, ...more, '--identity-token', tokenFile, image])
}

/** Signs with a certificate that another authority than ours issued, for whatever identity it was asked for. */
export async function signAsForeigner(
  place: SigningPlace,
  image: string,
  form: SignatureForm,
  foreign: { authority: HostileAuthority; ctLog: HostileCtLog; identity: string; issuer: string; trustedRoot: string },
): Promise<void> {
  const { authority, ctLog, identity, issuer } = foreign
  const { der, privateKey } = await authority.issue({ identity, issuer, sct: ctLog.sct })
  const folder = freshFolder('foreign')
  const file = (name: string, content: string | Buffer): string => {
    const path = join(folder, name)
    writeFileSync(path, content)
    return path
  }
  const password = { COSIGN_PASSWORD: 'for the tests' }
  const key = file('plain.pem', privateKey.export({ type: 'pkcs8', format: 'pem' }))
  const imported = join(folder, 'imported')
  succeeded(await client('cosign2', ['import-key-pair', '--key', key, '-o', imported], { env: password }))
  const certificate = file('leaf.pem', encodePem('CERTIFICATE', der))
  const chain = file('chain.pem', encodePem('CERTIFICATE', authority.certificateDer))
  const with_ = ['--key', `${imported}.key`, '--certificate', certificate, '--certificate-chain', chain]
  // cosign 3 looks at what it made with the trust root that it knows: here one that trusts the foreigner too.
  const own = ['--trusted-root', file('trusting-too.json', trustingToo(foreign.trustedRoot, authority, ctLog))]
  const flags = form === 'legacy' ? ['--rekor-url', place.rekorV1] : own
  await cosign(place, form, ['sign', '--yes', ...with_, ...flags, image], password)
}

/** Puts the legacy signature of one image where that of another would be looked for. */
export async function moveSignature(from: string, to: string): Promise<void> {
  const tag = (image: string): string => image.replace('@sha256:', ':sha256-').concat('.sig')
  succeeded(await client('crane', ['copy', tag(from), tag(to)]))
}

async function cosign(
  place: SigningPlace,
  form: SignatureForm,
  args: Arguments,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const major = form === 'legacy' ? 'cosign2' : 'cosign3'
  succeeded(await client(major, args, { tufRoot: place.tufRoot[major], env }))
}
