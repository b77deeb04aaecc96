import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { AgentConfigError, parseAgentConfig } from './agent-config.ts'
import { KEY_KINDS, KINDS_OF } from './key-kinds.ts'
import { PROFILES } from './quirks.ts'
import type { KeyKind } from './signing.ts'

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

  test.each([
    ['uri and uris', { uris: [{ token: 'online', uri: 'pkcs11:id=%01' }] }, /or uris/],
    ['neither', { uri: undefined, token: undefined }, /or uris/],
    ['a token twice', { uri: undefined, token: undefined, uris: [place('online'), place('online')] }, /twice/],
    ['a token that is none', { uri: undefined, token: undefined, uris: [place('other')] }, /not configured/],
  ])('refuses a key with %s', (_, changes, words) => {
    expect(() => parse({ ...base, keys: { k: { ...key, ...changes } } })).toThrow(words)
  })

  test('has the places of a key in their order', () => {
    const two = { ...base, tokens: { ...tokens, other: { uri: 'pkcs11:token=other', pinFile: 'pin' } } }
    const uris = [place('other'), place('online')]
    const found = parse({ ...two, keys: { k: { ...key, uri: undefined, token: undefined, uris } } }).keys.get('k')
    expect(found?.places.map(({ token }) => token)).toEqual(['other', 'online'])
    expect(found?.token).toBe('other')
  })

  test('knows the older name of kind', () => {
    const old = { ...key, kind: undefined, curve: 'P-256' }
    expect(parse({ ...base, keys: { k: old } }).keys.get('k')?.kind).toBe('P-256')
    expect(() => parse({ ...base, keys: { k: { ...old, curve: 'P-384' } } })).toThrow(/P-256, not P-384/)
  })

  test.each([
    ['LD_PRELOAD', /LD_PRELOAD/],
    ['PKCS11SPY', /PKCS11SPY/],
    ['P11_KIT_DEBUG', /P11_KIT_DEBUG/],
  ])('does not give the module %s', (name, words) => {
    expect(() => parse({ ...base, moduleEnvironment: { [name]: 'x' } })).toThrow(words)
  })
})

function place(token: string): { token: string; uri: string } {
  return { token, uri: 'pkcs11:id=%01' }
}

/** The table of docs/hsm/README.md below the header that begins with `purpose`. */
function tableOfKinds(): { purpose: string; kinds: Record<string, string> }[] {
  const lines = readFileSync(new URL('../docs/hsm/README.md', import.meta.url), 'utf8').split('\n')
  const from = lines.findIndex((line) => line.startsWith('| purpose |'))
  const rows = lines.slice(from).slice(0, lines.slice(from).indexOf(''))
  const cells = rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
  const [header = [], , ...body] = cells
  return body.map(([purpose = '', ...answers]) => ({
    purpose,
    kinds: Object.fromEntries(header.slice(1, -1).map((kind, at) => [kind, answers[at] ?? ''])),
  }))
}

describe('the table of kinds and purposes in docs/hsm', () => {
  const spkis = Object.fromEntries(KEY_KINDS.map((kind) => [kind, spkiOf(kind)]))
  const needs: Readonly<Record<string, object>> = {
    treeHead: { origin: 'log.example', style: 'tlog' },
    witnessHead: { origin: 'log.example' },
    accountHead: { origin: 'account.example' },
    sct: { purposes: ['treeHead', 'sct'], origin: 'ct.example', style: 'ct' },
    set: { purposes: ['treeHead', 'set'], origin: 'r.example - 1', style: 'rekor-v1' },
    tuf: { tufRoles: ['timestamp'] },
    certificate: { ctKey: spki(), issuerCertificate: '/nowhere/issuer.pem' },
  }

  test('has every purpose and every kind', () => {
    const table = tableOfKinds()
    expect(table.map(({ purpose }) => purpose).toSorted()).toEqual(Object.keys(KINDS_OF).toSorted())
    for (const { kinds } of table) expect(Object.keys(kinds)).toEqual(KEY_KINDS)
  })

  test.each(tableOfKinds())('$purpose takes what it says and nothing else', ({ purpose, kinds }) => {
    for (const [kind, answer] of Object.entries(kinds)) {
      const one = { uri: 'pkcs11:id=%01', token: 'online', spki: spkis[kind], purposes: [purpose], ...needs[purpose] }
      const words = refusalOf(() => parse({ ...base, keys: { k: one } }))
      expect(['yes', 'no']).toContain(answer)
      // The file of a certificate is read last, and is not there.
      if (answer === 'yes') expect(words, kind).toMatch(/^$|issuer.pem cannot be read/)
      else expect(words, kind).toContain(`takes no key of kind ${kind}`)
    }
  })

  test('tells every profile, and which of them are tested', () => {
    const text = readFileSync(new URL('../docs/hsm/README.md', import.meta.url), 'utf8')
    for (const { name, tested } of PROFILES) expect(text).toContain(`| ${name} | ${tested ? 'yes' : 'untested'} |`)
    for (const [, file] of text.matchAll(/\[([a-z0-9-]+\.md)\]/g)) {
      const [head = ''] = readFileSync(new URL(`../docs/hsm/${file}`, import.meta.url), 'utf8').split('\n')
      expect(head, file).toMatch(/\((?:.*; )?(?:un)?tested: |\(software TPM tested: /)
    }
  })
})

function refusalOf(work: () => unknown): string {
  try {
    work()
    return ''
  } catch (error) {
    return error instanceof Error ? error.message : 'thrown'
  }
}

function spkiOf(kind: KeyKind): string {
  const pair =
    kind === 'ed25519'
      ? generateKeyPairSync('ed25519')
      : kind === 'P-256' || kind === 'P-384'
        ? generateKeyPairSync('ec', { namedCurve: kind })
        : generateKeyPairSync('rsa', { modulusLength: Number(kind.slice(4)) })
  return pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
}
