/** Admission in Kubernetes: policy-controller's TrustRoot and Kyverno's ClusterPolicy. JSON is YAML, and needs no library. */
import { gzipSync } from 'node:zlib'
import { encodePem } from '#x509'
import type { CertificateAuthority, TransparencyLogInstance } from '../trusted-root.ts'
import type { ClientExport, ExportRequest } from './clients.ts'
import type { TrustMaterial } from './material.ts'
import { tar } from './tar.ts'
import { filesOf, jsonFile, shellWord, textFile } from './text.ts'

/** The three forms that a TrustRoot has: fetched by TUF, a repository inside, keys alone. */
export function forPolicyController({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const { firstRoot, repository } = material
  const root = base64(firstRoot)
  const manifest = (name: string, spec: object) =>
    jsonFile({ apiVersion: 'policy.sigstore.dev/v1alpha1', kind: 'TrustRoot', metadata: { name }, spec })
  const keyless = { identities: [{ issuer, subject: identity }] }
  const ctlog = rekorUrl(material)
  const policy = (name: string, authority: object) =>
    jsonFile({
      apiVersion: 'policy.sigstore.dev/v1beta1',
      kind: 'ClusterImagePolicy',
      metadata: { name },
      spec: { images: [{ glob: '**' }], authorities: [{ name: 'keyless', ...authority }] },
    })
  const byTrustRoot = { trustRootRef: 'chancery' }
  return {
    files: filesOf([
      [
        'trust-root-remote.yaml',
        mirror === undefined ? undefined : manifest('chancery', { remote: { root, mirror, targets: 'targets' } }),
      ],
      [
        'trust-root-repository.yaml',
        manifest('chancery', { repository: { root, mirrorFS: base64(gzipSync(tar(repository))), targets: 'targets' } }),
      ],
      ['trust-root-keys.yaml', manifest('chancery', { sigstoreKeys: sigstoreKeys(material) })],
      [
        'cluster-image-policy.yaml',
        policy('chancery', { keyless: { ...keyless, ...byTrustRoot }, ctlog: { ...ctlog, ...byTrustRoot } }),
      ],
      // Of bundles policy-controller 0.15 finds no log under a TrustRoot, only under the root that it was started with;
      // and takes their signature for an attestation (docs/kubernetes.md).
      [
        'cluster-image-policy-bundle.yaml',
        mirror === undefined
          ? undefined
          : policy('chancery-bundle', { keyless, ctlog, signatureFormat: 'bundle', attestations: [SIGNATURE] }),
      ],
      [
        'tuf-arguments.txt',
        mirror === undefined ? undefined : textFile([`--tuf-mirror=${mirror}`, `--tuf-root=${MOUNTED_ROOT}`]),
      ],
      ['root.json', mirror === undefined ? undefined : firstRoot],
    ]),
    lines: [
      '# One of the three: keys by TUF from the mirror (rotations arrive by themselves within a day), by TUF from a',
      '# repository inside (it ends as the metadata does), or keys alone',
      ...(mirror === undefined ? [] : [`kubectl apply -f ${shellWord(`${at}/trust-root-remote.yaml`)}`]),
      `${mirror === undefined ? '' : '# '}kubectl apply -f ${shellWord(`${at}/trust-root-repository.yaml`)}`,
      `# kubectl apply -f ${shellWord(`${at}/trust-root-keys.yaml`)}`,
      '# An example of a policy: say which images, and who must have signed',
      `kubectl apply -f ${shellWord(`${at}/cluster-image-policy.yaml`)}`,
      ...(mirror === undefined
        ? []
        : [
            '# It reads signatures as cosign 2 leaves them. For the bundles of cosign 3 the webhook itself is started with',
            `# ${at}/tuf-arguments.txt, with ${at}/root.json mounted at ${MOUNTED_ROOT}, and the policy is`,
            `# kubectl apply -f ${shellWord(`${at}/cluster-image-policy-bundle.yaml`)}`,
          ]),
    ],
  }
}

/** Where the webhook's pod finds our first root: it takes a file, no address. */
const MOUNTED_ROOT = '/etc/chancery/root.json'

/** What cosign 3 signs of an image: a statement of this type. */
const SIGNATURE = { name: 'signature', predicateType: 'https://sigstore.dev/cosign/sign/v1' } as const

function sigstoreKeys({ trustedRoot }: TrustMaterial): object {
  const authority = ({ subject, uri, certChain }: CertificateAuthority) => ({
    subject,
    uri,
    certChain: base64(Buffer.from(certChain.certificates.map(({ rawBytes }) => pem('CERTIFICATE', rawBytes)).join(''))),
  })
  const log = ({ baseUrl, publicKey }: TransparencyLogInstance) => ({
    baseURL: baseUrl,
    hashAlgorithm: 'sha-256',
    publicKey: base64(Buffer.from(pem('PUBLIC KEY', publicKey.rawBytes))),
  })
  return {
    certificateAuthorities: trustedRoot.certificateAuthorities.map(authority),
    tLogs: trustedRoot.tlogs.map(log),
    ctLogs: trustedRoot.ctlogs.map(log),
    timestampAuthorities: trustedRoot.timestampAuthorities.map(authority),
  }
}

/**
 * A ClusterPolicy, and its attestors alone. Kyverno takes one key of each log an attestor: each pair of Rekor and CT key
 * whose windows meet is one, and one of them must match.
 */
export function forKyverno({ material, at, mirror, identity, issuer }: ExportRequest): ClientExport {
  const attestors = [{ count: 1, entries: attestorEntries(material, { subject: identity, issuer }) }]
  const policy = {
    apiVersion: 'kyverno.io/v1',
    kind: 'ClusterPolicy',
    metadata: { name: 'chancery' },
    spec: {
      webhookConfiguration: { failurePolicy: 'Fail', timeoutSeconds: 30 },
      background: false,
      rules: [
        {
          name: 'signed',
          match: { any: [{ resources: { kinds: ['Pod'] } }] },
          verifyImages: [{ imageReferences: ['*'], failureAction: 'Enforce', mutateDigest: true, attestors }],
        },
      ],
    },
  }
  return {
    files: filesOf([
      ['cluster-policy.yaml', jsonFile(policy)],
      ['attestors.yaml', jsonFile({ attestors })],
      [
        'image-validating-policy.yaml',
        mirror === undefined
          ? undefined
          : jsonFile(imageValidatingPolicy(material, mirror, { subject: identity, issuer })),
      ],
      ['tuf-arguments.txt', mirror === undefined ? undefined : textFile(tufArguments(material, mirror))],
    ]),
    lines: [
      '# attestors.yaml is the part for a policy of your own; it holds keys: export it again after a rotation',
      `kubectl apply -f ${shellWord(`${at}/cluster-policy.yaml`)}`,
      ...(mirror === undefined
        ? []
        : [
            '# Or, from Kyverno 1.19: it asks the mirror each time, and reads the bundles of cosign 3 too',
            `# kubectl apply -f ${shellWord(`${at}/image-validating-policy.yaml`)}`,
            `# Without keys in policies: ${at}/tuf-arguments.txt are arguments of Kyverno's admission controller, which`,
            '# then fetches them from the mirror when it starts',
          ]),
    ],
  }
}

function imageValidatingPolicy(
  material: TrustMaterial,
  mirror: string,
  signer: { subject: string; issuer: string },
): object {
  const tuf = { mirror, root: { data: base64(material.firstRoot) } }
  return {
    apiVersion: 'policies.kyverno.io/v1',
    kind: 'ImageValidatingPolicy',
    metadata: { name: 'chancery' },
    spec: {
      validationActions: ['Deny'],
      failurePolicy: 'Fail',
      webhookConfiguration: { timeoutSeconds: 30 },
      matchConstraints: {
        resourceRules: [
          { apiGroups: [''], apiVersions: ['v1'], operations: ['CREATE', 'UPDATE'], resources: ['pods'] },
        ],
      },
      matchImageReferences: [{ glob: '*' }],
      attestors: [{ name: 'ours', cosign: { keyless: { identities: [signer] }, ctlog: rekorUrl(material), tuf } }],
      validations: [
        {
          expression:
            'images.containers.map(image, verifyImageSignatures(image, [attestors.ours])).all(count, count > 0)',
          message: `not signed by ${signer.subject}`,
        },
      ],
    },
  }
}

function attestorEntries(material: TrustMaterial, signer: { subject: string; issuer: string }): object[] {
  const { legacy, trustedRoot } = material
  const of = (usage: string) => legacy.filter(({ custom }) => custom.sigstore.usage === usage)
  const roots = of('Fulcio')
    .map(({ pem }) => pem)
    .join('')
  const entries = of('Rekor').flatMap((rekor) =>
    of('CTFE')
      .filter((ct) => meet(windowOf(trustedRoot.tlogs, rekor.pem), windowOf(trustedRoot.ctlogs, ct.pem)))
      .map((ct) => ({
        keyless: {
          ...signer,
          roots,
          rekor: { url: rekor.custom.sigstore.uri, pubkey: rekor.pem },
          ctlog: { pubkey: ct.pem },
        },
      })),
  )
  return entries
}

function tufArguments({ firstRoot }: TrustMaterial, mirror: string): string[] {
  return ['--enableTuf=true', `--tufMirror=${mirror}`, `--tufRootRaw=${Buffer.from(firstRoot).toString('base64')}`]
}

type Window = TransparencyLogInstance['publicKey']['validFor']

function windowOf(logs: readonly TransparencyLogInstance[], keyPem: string): Window | undefined {
  return logs.find(({ publicKey }) => pem('PUBLIC KEY', publicKey.rawBytes) === keyPem)?.publicKey.validFor
}

function meet(one: Window | undefined, other: Window | undefined): boolean {
  if (one === undefined || other === undefined) return false
  // RFC 3339 in one form: text sorts as time.
  return (one.end === undefined || other.start <= one.end) && (other.end === undefined || one.start <= other.end)
}

function rekorUrl({ legacy }: TrustMaterial): { readonly url?: string } {
  const uri = legacy.find(({ custom }) => custom.sigstore.usage === 'Rekor')?.custom.sigstore.uri
  return uri === undefined ? {} : { url: uri }
}

function pem(label: 'CERTIFICATE' | 'PUBLIC KEY', rawBytes: string): string {
  return encodePem(label, new Uint8Array(Buffer.from(rawBytes, 'base64')))
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
