/** What each client is given, and the lines that use it. Pure: the same material gives the same files. */
import { forCosign, forSigstoreJs, forSigstorePython } from './bundle-clients.ts'
import { forKyverno, forPolicyController } from './admission.ts'
import { forGitsign } from './gitsign.ts'
import type { TrustMaterial } from './material.ts'

/** Bytes by path, relative to the folder of the export. */
export type ExportFiles = ReadonlyMap<string, Uint8Array>

export interface ClientExport {
  readonly files: ExportFiles
  /** Lines for a shell, with comments; in order. */
  readonly lines: readonly string[]
}

/** Where the files will be, and what the files cannot know. */
export interface ExportPlace {
  /** The folder of the files, as the lines name it; absolute. */
  readonly at: string
  /** What TUF clients dial; without it there are no lines for them. */
  readonly mirror?: string | undefined
  /** Who must have signed, in the lines and policies; a name that nobody has unless told. */
  readonly identity?: string | undefined
  /** Who vouches for it; the issuer of the signing configuration unless told. */
  readonly issuer?: string | undefined
}

/** All that a renderer is told. */
export interface ExportRequest extends ExportPlace {
  readonly material: TrustMaterial
  readonly identity: string
  readonly issuer: string
}

const RENDERERS = {
  cosign: forCosign,
  'sigstore-python': forSigstorePython,
  'sigstore-js': forSigstoreJs,
  gitsign: forGitsign,
  'policy-controller': forPolicyController,
  kyverno: forKyverno,
} as const satisfies Readonly<Record<string, (request: ExportRequest) => ClientExport>>

export type ExportClient = keyof typeof RENDERERS

/** Names of `chancery trust export --for`, the air-gap kit apart. */
export const EXPORT_CLIENTS = Object.keys(RENDERERS) as readonly ExportClient[]

/** Nobody's: a policy that was taken as it is lets nothing in. */
const NOBODY = 'nobody@example.invalid'

/** One export. */
export function renderExport(client: ExportClient, material: TrustMaterial, place: ExportPlace): ClientExport {
  const issuer = place.issuer ?? material.signingConfig.oidcUrls[0]?.url ?? 'https://issuer.example.invalid'
  return RENDERERS[client]({ ...place, material, issuer, identity: place.identity ?? NOBODY })
}

/** All of them, each below a folder of its name. */
export function renderExports(material: TrustMaterial, place: ExportPlace): Map<ExportClient, ClientExport> {
  return new Map(
    EXPORT_CLIENTS.map((client) => [client, renderExport(client, material, { ...place, at: `${place.at}/${client}` })]),
  )
}
