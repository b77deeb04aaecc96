/** Clients that read trusted_root.json: cosign, sigstore-python, sigstore-js. */
import { renderClientTrustConfig } from '../client-trust-config.ts'
import type { ClientExport, ExportRequest } from './clients.ts'
import { filesOf, jsonFile, shellWord, textFile } from './text.ts'

/** Files for `--trusted-root` and `--signing-config`, and the root for `cosign initialize`. */
export function forCosign({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const { trustedRoot, signingConfig, signingConfigRekorV2, firstRoot, firstRootSha256 } = material
  const file = (name: string) => shellWord(`${at}/${name}`)
  const signer = `--certificate-identity ${shellWord(identity)} --certificate-oidc-issuer ${shellWord(issuer)}`
  const bundle = '--bundle artifact.sigstore.json'
  const sign = (config: string) =>
    `cosign sign-blob --yes --identity-token token --trusted-root ${file('trusted_root.json')} --signing-config ${file(config)} ${bundle} artifact.txt`
  return {
    files: filesOf([
      ['trusted_root.json', jsonFile(trustedRoot)],
      ['signing_config.json', jsonFile(signingConfig)],
      ['signing_config_rekor_v2.json', signingConfigRekorV2 && jsonFile(signingConfigRekorV2)],
      ['root.json', firstRoot],
    ]),
    lines: [
      '# With files (cosign 2.6 with --new-bundle-format, or 3): export them again after a rotation',
      sign('signing_config.json'),
      ...(signingConfigRekorV2 === undefined
        ? []
        : ['# The same with the Rekor v2 log', `# ${sign('signing_config_rekor_v2.json')}`]),
      `cosign verify-blob --trusted-root ${file('trusted_root.json')} ${bundle} ${signer} artifact.txt`,
      ...(mirror === undefined
        ? []
        : [
            '# With TUF: rotations arrive by themselves. cosign 3 empties TUF_ROOT first: a folder of its own',
            'export TUF_ROOT="$HOME/.sigstore/chancery"',
            `cosign initialize --mirror ${shellWord(mirror)} --root ${file('root.json')} --root-checksum ${firstRootSha256}`,
            `cosign sign-blob --yes --identity-token token ${bundle} artifact.txt`,
            `cosign verify-blob ${bundle} ${signer} artifact.txt`,
          ]),
    ],
  }
}

/** ClientTrustConfig for `--trust-config`. */
export function forSigstorePython({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const { trustedRoot, signingConfig, signingConfigRekorV2, firstRoot } = material
  const config = (name: string) => shellWord(`${at}/${name}`)
  const bundle = '--bundle artifact.sigstore.json'
  const signer = `--cert-identity ${shellWord(identity)} --cert-oidc-issuer ${shellWord(issuer)}`
  const both = (how: string) => [
    `sigstore ${how} sign --overwrite --identity-token "$(cat token)" ${bundle} artifact.txt`,
    `sigstore ${how} verify identity ${bundle} ${signer} artifact.txt`,
  ]
  return {
    files: filesOf([
      ['trust_config.json', jsonFile(renderClientTrustConfig(trustedRoot, signingConfig))],
      [
        'trust_config_rekor_v2.json',
        signingConfigRekorV2 && jsonFile(renderClientTrustConfig(trustedRoot, signingConfigRekorV2)),
      ],
      ['root.json', firstRoot],
    ]),
    lines: [
      '# With a file: export it again after a rotation',
      ...both(`--trust-config ${config('trust_config.json')}`),
      ...(mirror === undefined
        ? []
        : [
            '# With TUF: rotations arrive by themselves',
            `sigstore --instance ${shellWord(mirror)} trust-instance ${config('root.json')}`,
            ...both(`--instance ${shellWord(mirror)}`),
          ]),
    ],
  }
}

/** Two small programs on the packages of sigstore-js, which has no command of its own for a private instance. */
export function forSigstoreJs({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const { trustedRoot, signingConfig, signingConfigRekorV2, firstRoot } = material
  const file = (name: string) => shellWord(`${at}/${name}`)
  return {
    files: filesOf([
      ['trusted_root.json', jsonFile(trustedRoot)],
      ['signing_config.json', jsonFile(signingConfig)],
      ['signing_config_rekor_v2.json', signingConfigRekorV2 && jsonFile(signingConfigRekorV2)],
      ['root.json', firstRoot],
      ['sign.mjs', textFile(SIGN_MJS)],
      ['verify.mjs', textFile(VERIFY_MJS)],
    ]),
    lines: [
      `# npm install sigstore, in ${at} or a folder above it`,
      `node ${file('sign.mjs')} artifact.txt token > artifact.sigstore.json`,
      `node ${file('verify.mjs')} artifact.txt artifact.sigstore.json ${shellWord(identity)} ${shellWord(issuer)}`,
      ...(mirror === undefined
        ? []
        : [
            '# With TUF: verify(bundle, data, options) of the package `sigstore` takes',
            `#   { tufMirrorURL: ${JSON.stringify(mirror)}, tufRootPath: ${JSON.stringify(`${at}/root.json`)}, tufCachePath: 'a folder' }`,
          ]),
    ],
  }
}

const SIGN_MJS = [
  '// node sign.mjs ARTIFACT TOKEN-FILE > BUNDLE',
  "import { readFileSync } from 'node:fs'",
  "import { bundleToJSON } from '@sigstore/bundle'",
  "import { SigningConfig } from '@sigstore/protobuf-specs'",
  "import { bundleBuilderFromSigningConfig } from '@sigstore/sign'",
  '',
  'const [artifact, token] = process.argv.slice(2)',
  "const config = JSON.parse(readFileSync(new URL('signing_config.json', import.meta.url), 'utf8'))",
  'const builder = bundleBuilderFromSigningConfig({',
  '  signingConfig: SigningConfig.fromJSON(config),',
  "  identityProvider: { getToken: async () => readFileSync(token, 'utf8').trim() },",
  "  bundleType: 'messageSignature',",
  '})',
  'const bundle = await builder.create({ data: readFileSync(artifact) })',
  'process.stdout.write(JSON.stringify(bundleToJSON(bundle)))',
]

const VERIFY_MJS = [
  '// node verify.mjs ARTIFACT BUNDLE IDENTITY ISSUER',
  "import { readFileSync } from 'node:fs'",
  "import { bundleFromJSON } from '@sigstore/bundle'",
  "import { TrustedRoot } from '@sigstore/protobuf-specs'",
  "import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify'",
  '',
  'const [artifact, bundle, identity, issuer] = process.argv.slice(2)',
  "const root = JSON.parse(readFileSync(new URL('trusted_root.json', import.meta.url), 'utf8'))",
  'const thresholds = { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 }',
  'const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(root)), thresholds)',
  "const entity = toSignedEntity(bundleFromJSON(JSON.parse(readFileSync(bundle, 'utf8'))), readFileSync(artifact))",
  "// Compared here, exactly: the library would take the identity for a pattern and find it anywhere in the signer's.",
  'const { identity: signer } = verifier.verify(entity)',
  'if (signer?.subjectAlternativeName !== identity || signer.extensions?.issuer !== issuer) {',
  '  throw new Error(`signed by ${signer?.subjectAlternativeName} of ${signer?.extensions?.issuer}`)',
  '}',
  "console.log('verified')",
]
