/** The extensions 1.3.6.1.4.1.57264.1.x in which Fulcio records where a token came from. */
import { DerReader, concatBytes, objectIdentifier, octetString, sequence, utf8Bytes, utf8String } from './der.ts'
import { X509Error } from './errors.ts'
import { decodeUtf8 } from './names.ts'
import { OID } from './oids.ts'

/** What a certificate says about its token. An absent or empty value has no extension; `issuer` becomes .1 and .8. */
export interface FulcioExtensions {
  readonly issuer: string
  readonly githubWorkflowTrigger?: string | undefined
  readonly githubWorkflowSha?: string | undefined
  readonly githubWorkflowName?: string | undefined
  readonly githubWorkflowRepository?: string | undefined
  readonly githubWorkflowRef?: string | undefined
  readonly buildSignerUri?: string | undefined
  readonly buildSignerDigest?: string | undefined
  readonly runnerEnvironment?: string | undefined
  readonly sourceRepositoryUri?: string | undefined
  readonly sourceRepositoryDigest?: string | undefined
  readonly sourceRepositoryRef?: string | undefined
  readonly sourceRepositoryIdentifier?: string | undefined
  readonly sourceRepositoryOwnerUri?: string | undefined
  readonly sourceRepositoryOwnerIdentifier?: string | undefined
  readonly buildConfigUri?: string | undefined
  readonly buildConfigDigest?: string | undefined
  readonly buildTrigger?: string | undefined
  readonly runInvocationUri?: string | undefined
  readonly sourceRepositoryVisibilityAtSigning?: string | undefined
  readonly deploymentEnvironment?: string | undefined
  /** The token's `sub` as it stood in the token. */
  readonly tokenSubject?: string | undefined
}

interface Slot {
  readonly arc: number
  readonly field: keyof FulcioExtensions
  /** .1 to .6 hold the bare text; all later ones a DER UTF8String. */
  readonly raw: boolean
  /** OBJECT IDENTIFIER, encoded once. */
  readonly oidDer: Uint8Array
}

/** In emission order: numeric, .7 is only ever inside a SAN. */
const SLOTS: readonly Slot[] = (
  [
    [1, 'issuer'],
    [2, 'githubWorkflowTrigger'],
    [3, 'githubWorkflowSha'],
    [4, 'githubWorkflowName'],
    [5, 'githubWorkflowRepository'],
    [6, 'githubWorkflowRef'],
    [8, 'issuer'],
    [9, 'buildSignerUri'],
    [10, 'buildSignerDigest'],
    [11, 'runnerEnvironment'],
    [12, 'sourceRepositoryUri'],
    [13, 'sourceRepositoryDigest'],
    [14, 'sourceRepositoryRef'],
    [15, 'sourceRepositoryIdentifier'],
    [16, 'sourceRepositoryOwnerUri'],
    [17, 'sourceRepositoryOwnerIdentifier'],
    [18, 'buildConfigUri'],
    [19, 'buildConfigDigest'],
    [20, 'buildTrigger'],
    [21, 'runInvocationUri'],
    [22, 'sourceRepositoryVisibilityAtSigning'],
    [23, 'deploymentEnvironment'],
    [24, 'tokenSubject'],
  ] as const
).map(([arc, field]) => ({ arc, field, raw: arc <= 6, oidDer: objectIdentifier(`${OID.fulcio}.${arc}`) }))

/** Extensions in DER, one after the other, in the order that Fulcio emits; throws `profile` for an empty issuer. */
export function encodeFulcioExtensions(values: FulcioExtensions): Uint8Array {
  if (values.issuer === '') throw new X509Error('profile', 'issuer extension is empty')
  const parts: Uint8Array[] = []
  for (const { field, raw, oidDer } of SLOTS) {
    const value = values[field]
    if (value === undefined || value === '') continue
    if (!value.isWellFormed()) throw new X509Error('profile', `extension ${field} is not well-formed unicode`)
    parts.push(sequence(oidDer, octetString(raw ? utf8Bytes(value) : utf8String(value))))
  }
  return concatBytes(...parts)
}

/**
 * The Fulcio extensions of a certificate; `issuer` is .8, or .1 in older certificates, or absent if it has none.
 * Unknown arcs are left out. Throws `malformed_certificate` if a value is not what its arc holds.
 */
export function decodeFulcioExtensions(certificate: {
  extension(oid: string): { readonly value: Uint8Array } | undefined
}): Partial<FulcioExtensions> {
  const found: { -readonly [Field in keyof FulcioExtensions]?: string } = {}
  for (const { arc, field, raw } of SLOTS) {
    const extension = certificate.extension(`${OID.fulcio}.${arc}`)
    if (extension === undefined) continue
    try {
      found[field] = raw ? decodeUtf8(extension.value) : readUtf8String(extension.value)
    } catch (error) {
      throw new X509Error('malformed_certificate', `fulcio extension ${arc} is malformed`, { cause: error })
    }
  }
  return found
}

function readUtf8String(der: Uint8Array): string {
  const reader = new DerReader(der)
  const text = decodeUtf8(reader.read(0x0c))
  reader.end()
  return text
}
