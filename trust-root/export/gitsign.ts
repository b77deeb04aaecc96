/** gitsign reads PEM files and addresses from its environment, and trusted_root.json from a mirror alone. */
import type { ClientExport, ExportRequest } from './clients.ts'
import type { TrustMaterial } from './material.ts'
import { filesOf, shellWord, textFile } from './text.ts'

/**
 * Files, and `gitsign.env` that names them. Rekor keys come from the mirror; of CT logs gitsign takes one key. All are
 * there, and `verify.sh` tries each: certificates of a former log verify, and those of one that stood by at the export.
 *
 * No timestamp authority: gitsign 0.16 wants a timestamp to be later than the start of the certificate by more than the
 * second of its stated accuracy, and here both are made within one second. The log entry tells the time.
 */
export function forGitsign({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const { signingConfig, legacy, firstRoot } = material
  const pems = (usage: string) => legacy.filter(({ custom }) => custom.sigstore.usage === usage)
  const [rekor, ...formerRekor] = pems('Rekor')
  const [ct, ...formerCt] = pems('CTFE')
  const file = (name: string) => shellWord(`${at}/${name}`)
  const variables = {
    GITSIGN_FULCIO_URL: signingConfig.caUrls[0]?.url,
    GITSIGN_FULCIO_ROOT: `${at}/fulcio.pem`,
    GITSIGN_REKOR_URL: rekor?.custom.sigstore.uri,
    GITSIGN_OIDC_ISSUER: signingConfig.oidcUrls[0]?.url,
    GITSIGN_OIDC_CLIENT_ID: 'sigstore',
    SIGSTORE_REKOR_PUBLIC_KEY: rekor && `${at}/rekor.pub`,
    SIGSTORE_CT_LOG_PUBLIC_KEY_FILE: `${at}/ctfe.pub`,
    // With these it verifies log entries by the trusted root of the mirror, which it asks each time.
    TUF_MIRROR: mirror,
    TUF_ROOT_JSON: mirror && `${at}/root.json`,
    TUF_ROOT: mirror && `${at}/tuf`,
    // Commits carry their log entries, and verify without asking the log.
    GITSIGN_REKOR_MODE: 'offline',
  }
  const environment = Object.entries(variables).flatMap(([name, value]) =>
    value === undefined ? [] : [`export ${name}=${shellWord(value)}`],
  )
  return {
    files: filesOf([
      ['fulcio.pem', joined(pems('Fulcio'))],
      ['rekor.pub', rekor && Buffer.from(rekor.pem)],
      ['ctfe.pub', ct && Buffer.from(ct.pem)],
      ...[...formerRekor, ...formerCt].map(({ name, pem }) => [name, Buffer.from(pem)] as const),
      ['root.json', firstRoot],
      ['gitsign.env', textFile(environment)],
      ['verify.sh', textFile(VERIFY)],
    ]),
    lines: [
      `. ${file('gitsign.env')}`,
      'git config gpg.format x509',
      'git config gpg.x509.program gitsign',
      '# Without a browser: the ID token in SIGSTORE_ID_TOKEN',
      'GITSIGN_TOKEN_PROVIDER=envvar SIGSTORE_ID_TOKEN="$(cat token)" git commit -S -m signed',
      `sh ${file('verify.sh')} --certificate-identity ${shellWord(identity)} --certificate-oidc-issuer ${shellWord(issuer)} HEAD`,
    ],
  }
}

const VERIFY = [
  '# gitsign verify with each of our CT keys: that of the log in use, of one that stands by, of former ones. It takes one',
  '# at a time. Any other refusal than that it does not know the log is final.',
  'for key in "$(dirname "$0")"/ctfe*.pub; do',
  '  if said=$(SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=$key gitsign verify "$@" 2>&1); then',
  String.raw`    printf '%s\n' "$said"`,
  '    exit 0',
  '  fi',
  "  case $said in *'ctfe public key not found'*) ;; *) break ;; esac",
  'done',
  String.raw`printf '%s\n' "$said" >&2`,
  'exit 1',
] as const

function joined(targets: TrustMaterial['legacy']): Uint8Array {
  return Buffer.from(targets.map(({ pem }) => pem).join(''))
}
