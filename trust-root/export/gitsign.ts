/** gitsign reads PEM files and addresses from its environment, and knows nothing of trusted_root.json. */
import type { ClientExport, ExportRequest } from './clients.ts'
import type { TrustMaterial } from './material.ts'
import { filesOf, shellWord, textFile } from './text.ts'

/**
 * Files, and `gitsign.env` that names them. gitsign takes one key of each log: those that sign now. Commits signed under
 * former keys verify with `GITSIGN_*` set to the files of those, which are there too.
 */
export function forGitsign({ material, at, identity, issuer }: ExportRequest): ClientExport {
  const { signingConfig, legacy } = material
  const pems = (usage: string) => legacy.filter(({ custom }) => custom.sigstore.usage === usage)
  const [rekor, ...formerRekor] = pems('Rekor')
  const [ct, ...formerCt] = pems('CTFE')
  const tsa = pems('TSA')
  const file = (name: string) => shellWord(`${at}/${name}`)
  const variables = {
    GITSIGN_FULCIO_URL: signingConfig.caUrls[0]?.url,
    GITSIGN_FULCIO_ROOT: `${at}/fulcio.pem`,
    GITSIGN_REKOR_URL: rekor?.custom.sigstore.uri,
    GITSIGN_OIDC_ISSUER: signingConfig.oidcUrls[0]?.url,
    GITSIGN_OIDC_CLIENT_ID: 'sigstore',
    SIGSTORE_REKOR_PUBLIC_KEY: rekor && `${at}/rekor.pub`,
    SIGSTORE_CT_LOG_PUBLIC_KEY_FILE: `${at}/ctfe.pub`,
    // Its verifier checks a timestamp with the certificates of the timestamp authority only, so both or none.
    GITSIGN_TIMESTAMP_SERVER_URL: tsa.length === 0 ? undefined : signingConfig.tsaUrls[0]?.url,
    GITSIGN_TIMESTAMP_CERT_CHAIN: tsa.length === 0 ? undefined : `${at}/tsa.pem`,
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
      ['tsa.pem', tsa.length === 0 ? undefined : joined(tsa)],
      ...[...formerRekor, ...formerCt].map(({ name, pem }) => [name, Buffer.from(pem)] as const),
      ['gitsign.env', textFile(environment)],
    ]),
    lines: [
      `. ${file('gitsign.env')}`,
      'git config gpg.format x509',
      'git config gpg.x509.program gitsign',
      '# Without a browser: the ID token in SIGSTORE_ID_TOKEN',
      'GITSIGN_TOKEN_PROVIDER=envvar SIGSTORE_ID_TOKEN="$(cat token)" git commit -S -m signed',
      `gitsign verify --certificate-identity ${shellWord(identity)} --certificate-oidc-issuer ${shellWord(issuer)} HEAD`,
    ],
  }
}

function joined(targets: TrustMaterial['legacy']): Uint8Array {
  return Buffer.from(targets.map(({ pem }) => pem).join(''))
}
