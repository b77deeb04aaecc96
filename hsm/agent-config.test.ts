import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { AgentConfigError, parseAgentConfig } from './agent-config.ts'

function spki(namedCurve: 'P-256' | 'P-384' = 'P-256'): string {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve })
  return publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
}

const tokens = { online: { uri: 'pkcs11:token=online', pinFile: 'pin' } }
const base = { state: 'state', modulePath: '/m.so', tokens }
const key = { uri: 'pkcs11:id=%01', token: 'online', spki: spki(), kind: 'P-256', purposes: ['timestamp'] }
const log = { ...key, purposes: ['treeHead'], origin: 'log.example', style: 'tlog' }

const parse = (document: object) => parseAgentConfig(stringify(document), '/etc/chancery')

describe("the agent's configuration", () => {
  test('has paths relative to its folder', () => {
    const config = parse({ ...base, sockets: { signing: 'run/s.sock' } })
    expect(config).toMatchObject({ stateFolder: '/etc/chancery/state', signingSocket: '/etc/chancery/run/s.sock' })
    expect(config.tokens.get('online')?.pinFile).toBe('/etc/chancery/pin')
  })

  test.each([
    [['treeHead', 'sct'], { origin: 'ct.example', style: 'ct' }],
    [['treeHead', 'set'], { origin: 'r.example - 1', style: 'rekor-v1' }],
    [['tuf'], { tufRoles: ['root'] }],
    [['caCertificate'], {}],
  ])('accepts a key for %j', (purposes, more) => {
    expect(parse({ ...base, keys: { k: { ...key, purposes, ...more } } }).keys.get('k')?.purposes.size).toBe(
      purposes.length,
    )
  })

  test.each([
    ['an unknown field', { ...base, colour: 'red' }, /colour/],
    ['an unknown field of a key', { ...base, keys: { k: { ...key, colour: 'red' } } }, /colour/],
    ['no state', { modulePath: '/m.so', tokens }, /state/],
    ['a token by slot', { ...base, tokens: { online: { ...tokens.online, uri: 'pkcs11:slot-id=0' } } }, /slot-id/],
    ['a PIN', { ...base, tokens: { online: { ...tokens.online, pin: '1234' } } }, /pin/],
    ['a key on no token', { ...base, keys: { k: { ...key, token: 'other' } } }, /not configured/],
    ['a key without id', { ...base, keys: { k: { ...key, uri: 'pkcs11:object=a' } } }, /no id/],
    ['a key of another curve', { ...base, keys: { k: { ...key, spki: spki('P-384') } } }, /P-256/],
    [
      'a log on P-384',
      { ...base, keys: { k: { ...log, spki: spki('P-384'), kind: 'P-384' } } },
      /takes no key of kind P-384, only P-256/,
    ],
    ['a log without origin', { ...base, keys: { k: { ...log, origin: undefined } } }, /needs origin/],
    ['an origin that could begin JSON', { ...base, keys: { k: { ...log, origin: '{"_type"' } } }, /origin/],
    ['an origin of two lines', { ...base, keys: { k: { ...log, origin: 'a\nb' } } }, /origin/],
    ['a certificate key without issuer', { ...base, keys: { k: { ...key, purposes: ['certificate'] } } }, /issuer/],
    ['a key for two services', { ...base, keys: { k: { ...key, purposes: ['timestamp', 'tuf'] } } }, /may not share/],
    ['a key for no service', { ...base, keys: { k: { ...key, purposes: [] } } }, /purposes/],
    ['promises of a note log', { ...base, keys: { k: { ...log, purposes: ['treeHead', 'sct'] } } }, /style ct/],
    ['one key under two names', { ...base, keys: { a: key, b: key } }, /the same key/],
    ['one origin for two keys', { ...base, keys: { a: log, b: { ...log, spki: spki() } } }, /same origin/],
    ['a socket path that is too long', { ...base, sockets: { signing: `/${'a'.repeat(110)}` } }, /107/],
    ['a list', [], /expected object/],
  ])('refuses %s', (_, document, words) => {
    expect(() => parse(document)).toThrow(AgentConfigError)
    expect(() => parse(document)).toThrow(words)
  })

  test('refuses tokens with two configurations of SoftHSM', () => {
    const two = { a: { ...tokens.online, softhsmConf: 'a' }, b: { ...tokens.online, softhsmConf: 'b' } }
    expect(() => parse({ ...base, tokens: two })).toThrow(/different softhsmConf/)
  })
})
