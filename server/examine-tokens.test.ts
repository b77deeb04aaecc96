import { expect, test } from 'vitest'
import type { KeyRecord, TokenDetails, TokenObject } from '#hsm'
import { type SurveyedAgent, tokenFindings } from './examine-tokens.ts'

const token: TokenDetails = {
  name: 'online',
  label: 'chancery-online',
  serial: '1',
  model: 'm',
  manufacturer: 'm',
  software: true,
  loggedIn: true,
  latched: '',
  fault: '',
  flags: [],
  sessions: { open: 1, max: -1 },
  memory: { publicFree: -1, privateFree: -1, privateTotal: -1 },
  pinLength: { min: 4, max: 8 },
  pinRotation: '',
  idBytes: 16,
}

const record: KeyRecord = {
  name: 'ct',
  token: 'online',
  idHex: 'aa',
  kind: 'P-256',
  spkiDer: new Uint8Array(0),
  purposes: [],
  origin: '',
  uses: 1,
  latched: '',
  fault: '',
}

const safe = {
  PRIVATE: 'yes',
  SENSITIVE: 'yes',
  ALWAYS_SENSITIVE: 'yes',
  EXTRACTABLE: 'no',
  NEVER_EXTRACTABLE: 'yes',
  WRAP_WITH_TRUSTED: 'no',
  LOCAL: 'yes',
  SIGN: 'yes',
  SIGN_RECOVER: 'no',
  DECRYPT: 'no',
  DERIVE: 'no',
  UNWRAP: 'no',
} as const

const object = (changes: Partial<TokenObject>): TokenObject => ({
  class: 'private key',
  keyType: 'EC',
  label: 'ct',
  idHex: 'aa',
  spkiDer: new Uint8Array(0),
  attributes: safe,
  ...changes,
})

/** Both halves of the configured key. */
const pair = (attributes: TokenObject['attributes'] = safe): TokenObject[] => [
  object({ attributes }),
  object({ class: 'public key', attributes: {} }),
]

const agent = (objects: readonly TokenObject[], changes: Partial<SurveyedAgent> = {}): SurveyedAgent => ({
  agent: 'online',
  tokens: [token],
  latches: [],
  records: [record],
  objects: new Map([['online', objects]]),
  ...changes,
})

const said = (...agents: SurveyedAgent[]) => tokenFindings(agents).map(({ code, subject }) => `${code} ${subject}`)

test.each<[string, TokenObject['attributes'], string[]]>([
  ['as it must be', safe, []],
  ['made for backups', { ...safe, EXTRACTABLE: 'yes', NEVER_EXTRACTABLE: 'no', WRAP_WITH_TRUSTED: 'yes' }, []],
  ['brought back from a backup', { ...safe, LOCAL: 'no', ALWAYS_SENSITIVE: 'no', NEVER_EXTRACTABLE: 'no' }, []],
  ['of a token that tells nothing', {}, []],
  ['extractable under any key', { ...safe, EXTRACTABLE: 'yes' }, ['key_extractable online: ct']],
  ['readable', { ...safe, SENSITIVE: 'no' }, ['key_extractable online: ct']],
  ['open to whoever is not logged in', { ...safe, PRIVATE: 'no' }, ['key_extractable online: ct']],
  ['that unwraps', { ...safe, UNWRAP: 'yes' }, ['key_attributes online: ct']],
  ['that decrypts', { ...safe, DECRYPT: 'yes' }, ['key_attributes online: ct']],
  ['that derives', { ...safe, DERIVE: 'yes' }, ['key_attributes online: ct']],
  ['that does not sign', { ...safe, SIGN: 'no' }, ['key_attributes online: ct']],
])('a private key %s', (_, attributes, expected) => {
  expect(said(agent(pair(attributes)))).toEqual(expected)
})

test('a token of two agents is read once, and the keys of both are theirs', () => {
  const others = { ...record, name: 'tsa', token: 'hsm', idHex: 'bb' }
  const tsa = [object({ label: 'tsa', idHex: 'bb' }), object({ label: 'tsa', idHex: 'bb', class: 'public key' })]
  const half = object({ label: 'half', idHex: 'cc' })
  const everything = [...pair(), ...tsa, half]
  const second = agent(everything, {
    agent: 'stamps',
    tokens: [{ ...token, name: 'hsm' }],
    records: [others],
    objects: new Map([['hsm', everything]]),
  })
  expect(said(agent(everything), second)).toEqual(['object_half_pair online: private key half, id cc'])
})

test.each<[string, SurveyedAgent, string[]]>([
  [
    'latches of each kind',
    agent(pair(), {
      latches: [
        { name: 'token:online', reason: 'a', atMs: 0 },
        { name: 'key:ct', reason: 'b', atMs: 0 },
        { name: 'origin:ct.example', reason: 'c', atMs: 0 },
      ],
    }),
    ['token_latched online', 'key_latched ct', 'fork_refused ct.example'],
  ],
  [
    'a token that is away',
    agent([], {
      tokens: [{ ...token, loggedIn: false, fault: 'gone' }],
      objects: new Map(),
      records: [{ ...record, fault: 'x' }],
    }),
    ['token_absent online'],
  ],
  ['a key that cannot be used', agent(pair(), { records: [{ ...record, fault: 'wrong' }] }), ['key_unusable ct']],
  ['a warning about a PIN', agent(pair(), { tokens: [{ ...token, flags: ['low'] }] }), ['pin_count_low online']],
  [
    'a change of a PIN that was interrupted',
    agent(pair(), { tokens: [{ ...token, pinRotation: 'intent' }] }),
    ['pin_rotation_interrupted online'],
  ],
])('%s', (_, surveyed, expected) => {
  expect(said(surveyed)).toEqual(expected)
})
