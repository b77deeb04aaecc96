/**
 * What is known of modules and tokens, as data: which profile applies is found from what C_GetInfo and C_GetTokenInfo
 * say, and nothing else in this folder asks for a vendor. `docs/hsm/` tells the same with its sources.
 */
/** What a module and a token say of themselves. */
export interface Identity {
  readonly libraryManufacturer: string
  readonly libraryDescription: string
  readonly model: string
  readonly manufacturer: string
}

/** Attributes that a private key gets where the token can, by their names without `CKA_`. */
export const OPTIONAL_ATTRIBUTES = ['DERIVE', 'SIGN_RECOVER', 'UNWRAP', 'DECRYPT', 'ALLOWED_MECHANISMS'] as const
export type OptionalAttribute = (typeof OPTIONAL_ATTRIBUTES)[number]

/** Something that a profile is known for, one word each; `QUIRKS` says what it means. */
export type Quirk =
  | 'origin_unproven'
  | 'read_write_sessions_only'
  | 'short_ids'
  | 'id_replaces'
  | 'full_is_general_error'
  | 'failed_generation_leaks'
  | 'attributes_not_taken'
  | 'reads_fail'
  | 'mechanisms_hidden'
  | 'idle_sessions_end'
  | 'few_sessions'
  | 'no_user_pin'
  | 'serial_not_unique'
  | 'new_keys_hidden'
  | 'one_at_a_time'

/** For operators, one line each. */
export const QUIRKS: Readonly<Record<Quirk, string>> = {
  origin_unproven: 'says CKA_LOCAL = 0 of keys that it made itself: their origin is recorded as unproven',
  read_write_sessions_only: 'has no read-only sessions: every session is opened read-write',
  short_ids: 'keeps CKA_ID of 2 bytes only',
  id_replaces: 'a second key of the same CKA_ID replaces the first',
  full_is_general_error: 'answers GENERAL_ERROR when it has no room for another key',
  failed_generation_leaks: 'keeps room for each key generation that it refused until it is initialised again',
  attributes_not_taken: 'refuses some attributes in a template: they are left out, and read back',
  reads_fail: 'answers DEVICE_ERROR when some attributes are read: they count as unknown',
  mechanisms_hidden: 'passes a part of the mechanisms of the token behind it',
  idle_sessions_end: 'ends sessions that were idle for 30 seconds; they are kept alive',
  few_sessions: 'has 16 sessions for all processes together',
  no_user_pin: 'has no user PIN: the credentials of the machine count',
  serial_not_unique: 'has a serial number that other tokens have too: the URI needs the label',
  new_keys_hidden: 'may show new keys only after it was initialised again',
  one_at_a_time: 'does one command at a time: more sessions do not sign faster',
}

export interface Profile {
  readonly name: string
  /** Run by this project's tests, or told by its vendor's documents alone. */
  readonly tested: boolean
  /** Keys lie in files that whoever reads the disk can copy. */
  readonly software: boolean
  /** Length of CKA_ID for new keys. */
  readonly idBytes: number
  /** Not even asked for at key generation. */
  readonly notAsked: readonly OptionalAttribute[]
  /** CK_RVs of C_GenerateKeyPair that mean that the token is full, beside the usual ones. */
  readonly fullErrors: readonly number[]
  readonly quirks: readonly Quirk[]
}

const GENERAL_ERROR = 0x5

const DEFAULTS = { tested: false, software: false, idBytes: 16, notAsked: [], fullErrors: [], quirks: [] } as const

/** For what nobody has told us of: everything is asked for, what is refused is dropped, all of it is read back. */
export const GENERIC: Profile = { ...DEFAULTS, name: 'PKCS#11' }

interface Row {
  readonly profile: Profile
  /** Of the token's model and manufacturer, which come through any module in between, or of the library's names. */
  readonly token?: RegExp
  readonly library?: RegExp
}

/** The first row that matches; tokens before libraries, since a token may be behind a forwarding library. */
const ROWS: readonly Row[] = [
  {
    token: /softhsm/i,
    profile: { ...DEFAULTS, name: 'SoftHSM 2', tested: true, software: true },
  },
  {
    token: /^NSS|mozilla/i,
    profile: {
      ...DEFAULTS,
      name: 'NSS softokn',
      tested: true,
      software: true,
      notAsked: ['ALLOWED_MECHANISMS'],
      quirks: ['origin_unproven', 'id_replaces', 'attributes_not_taken', 'serial_not_unique'],
    },
  },
  {
    library: /tpm2/i,
    // swtpm and the simulators call themselves this; a chip names its vendor.
    token: /^SW\s+TPM/,
    profile: tpm({ name: 'software TPM 2.0 (tpm2-pkcs11)', tested: true, software: true }),
  },
  { library: /tpm2/i, profile: tpm({ name: 'TPM 2.0 (tpm2-pkcs11)' }) },
  {
    token: /yubihsm/i,
    profile: {
      ...DEFAULTS,
      name: 'YubiHSM 2',
      idBytes: 2,
      notAsked: ['ALLOWED_MECHANISMS'],
      quirks: ['short_ids', 'attributes_not_taken', 'idle_sessions_end', 'few_sessions', 'one_at_a_time'],
    },
  },
  {
    token: /luna|safenet|thales/i,
    profile: { ...DEFAULTS, name: 'Luna', notAsked: ['ALLOWED_MECHANISMS'] },
  },
  {
    token: /ncipher|nshield|entrust/i,
    profile: { ...DEFAULTS, name: 'nShield', quirks: ['new_keys_hidden'] },
  },
  {
    token: /cloudhsm|cavium|marvell/i,
    profile: {
      ...DEFAULTS,
      name: 'AWS CloudHSM',
      notAsked: ['ALLOWED_MECHANISMS', 'SIGN_RECOVER'],
      quirks: ['read_write_sessions_only', 'attributes_not_taken'],
    },
  },
  {
    token: /google|cloud kms/i,
    profile: {
      ...DEFAULTS,
      name: 'Google Cloud KMS',
      notAsked: OPTIONAL_ATTRIBUTES,
      quirks: ['no_user_pin', 'attributes_not_taken', 'new_keys_hidden'],
    },
  },
  {
    token: /nitrokey|smartcard-hsm|cardcontact/i,
    profile: {
      ...DEFAULTS,
      name: 'Nitrokey HSM / SmartCard-HSM (OpenSC)',
      notAsked: ['ALLOWED_MECHANISMS'],
      quirks: ['attributes_not_taken', 'one_at_a_time'],
    },
  },
]

function tpm(told: { readonly name: string; readonly tested?: boolean; readonly software?: boolean }): Profile {
  return {
    ...DEFAULTS,
    // DECRYPT = 0 is a mismatch with what the TPM made, and each refused generation takes one of few object slots. A key
    // of CKM_RSA_PKCS alone does not sign: the module pads by itself and needs CKM_RSA_X_509 for the rest.
    notAsked: ['DECRYPT', 'ALLOWED_MECHANISMS'],
    fullErrors: [GENERAL_ERROR],
    quirks: ['attributes_not_taken', 'full_is_general_error', 'failed_generation_leaks', 'serial_not_unique'],
    ...told,
  }
}

/** What a library in between does to every token behind it. */
const FORWARDERS: readonly { readonly library: RegExp; readonly quirks: readonly Quirk[] }[] = [
  { library: /pkcs#11 kit/i, quirks: ['reads_fail', 'mechanisms_hidden'] },
]

/** Tokens in files beside those that have a profile. */
const SOFTWARE = /softhsm|soft ?token|^soft$|\bnss\b|kryoptic/i

/** The profile of a token as this module shows it; `GENERIC` with what the library is known for if no row matches. */
export function profileOf(identity: Identity): Profile {
  const token = [identity.model, identity.manufacturer]
  const library = [identity.libraryDescription, identity.libraryManufacturer]
  const found = ROWS.find(
    (row) =>
      (row.token === undefined || token.some((text) => row.token?.test(text) === true)) &&
      (row.library === undefined || library.some((text) => row.library?.test(text) === true)),
  )
  // By their names, which they keep behind any library: a production server refuses them.
  const software = token.some((text) => SOFTWARE.test(text))
  const profile = found?.profile ?? { ...GENERIC, software }
  const forwarder = FORWARDERS.find((row) => library.some((text) => row.library.test(text)))
  if (forwarder === undefined) return profile
  return { ...profile, quirks: [...profile.quirks, ...forwarder.quirks] }
}

/** Every profile, for the documents' test. */
export const PROFILES: readonly Profile[] = [...ROWS.map(({ profile }) => profile), GENERIC]
