import { describe, expect, test } from 'vitest'
import type { AgentStatus } from '#hsm'
import { type LoadedConfig, parseConfig } from './config.ts'
import { productionFaults } from './production.ts'

const hardware = {
  name: 'online',
  label: 'o',
  serial: '1',
  model: 'Luna K7',
  manufacturer: 'Thales',
  software: false,
  loggedIn: true,
  profile: 'Luna',
  breaker: 'closed' as const,
  fault: '',
  latched: '',
}
const agent = (software: boolean): AgentStatus => ({
  ready: true,
  reason: '',
  startedAtMs: 0,
  queue: { underWay: 0, most: 1024 },
  clock: { confirmedBy: 'kernel', fault: '' },
  tokens: [{ ...hardware, software }],
  keys: [],
  guards: [],
})
const company = { issuerUrl: 'https://login.example.com', wildcard: false, hasAllowRule: false }

const sound = `
profile: production
domain: sig.example.com
agent: { socket: /run/chancery-agent/signing.sock }
admin: { socket: run/admin.sock }
ca:
  { listen: '10.0.0.5:443', url: 'https://fulcio.example.com', tls: { certFile: a, keyFile: b }, key: issuing-ca, chain: ca/chain.pem, ctLog: ct, issuers: ca/issuers.yaml }
logs:
  - { kind: ct, name: ct, listen: '127.0.0.1:6962', url: 'http://127.0.0.1:6962', origin: ct.example.com, key: ct, database: logs/ct.db, roots: ca/root.pem }
timestamp:
  { listen: '127.0.0.1:3004', url: 'http://127.0.0.1:3004', key: tsa, chain: timestamp/chain.pem, timeSource: { command: [chrony-offset] } }
`

/** A key of litewitness. */
const VKEY = 'witness.test/lite+6217bbf1+BJLwDIA13u1JXia5q1FY097usJwf9YXvlCBjI9cWqIzC'
const WITNESS = `kind: witness, name: w, vkey: '${VKEY}'`

function load(text: string): LoadedConfig {
  return {
    config: parseConfig(text, 'chancery.yaml'),
    dataDir: '/d',
    file: '/d/chancery.yaml',
    resolve: (path) => path,
  }
}

describe('the production profile', () => {
  test("refuses an agent of the server's own user", () => {
    expect(productionFaults(load(sound), agent(false), [company], ['/run/agent.sock']).join('\n')).toMatch(
      /run\/agent\.sock is of our own user/,
    )
  })

  test('accepts a sound configuration', () => {
    expect(productionFaults(load(sound), agent(false), [company])).toEqual([])
  })

  const refused: [string, (text: string) => string, boolean, typeof company, RegExp][] = [
    ['a software token', (t) => t, true, company, /software token/],
    ['a spawned agent', (t) => t.replace(/agent: .*/, 'agent: { spawn: a.yaml }'), false, company, /agent\.spawn/],
    [
      'plain HTTP beyond loopback',
      (t) => t.replace(' tls: { certFile: a, keyFile: b },', ''),
      false,
      company,
      /plain HTTP/,
    ],
    [
      'a witness over plain HTTP',
      (t) => `${t}anchors: [{ ${WITNESS}, url: 'http://witness.example.org' }]\n`,
      false,
      company,
      /anchors\.w\.url: plain HTTP/,
    ],
    [
      'an http url beyond loopback',
      (t) => t.replace('https://fulcio', 'http://fulcio'),
      false,
      company,
      /ca\.url: plain HTTP/,
    ],
    ['no time source', (t) => t.replace(/, timeSource: .* }$/m, ' }'), false, company, /timeSource/],
    [
      'the development issuer',
      (t) => `${t}developmentIssuer: { listen: '127.0.0.1:1', url: 'http://127.0.0.1:1' }`,
      false,
      company,
      /developmentIssuer/,
    ],
    [
      'a fault point',
      (t) => t.replace('roots: ca/root.pem', 'roots: ca/root.pem, faultPoint: after-commit'),
      false,
      company,
      /faultPoint/,
    ],
    ['a plain HTTP issuer', (t) => t, false, { ...company, issuerUrl: 'http://login.example.com' }, /plain HTTP/],
    [
      'a shared issuer without a rule',
      (t) => t,
      false,
      { ...company, issuerUrl: 'https://accounts.google.com' },
      /allow rule/,
    ],
    ['a wildcard issuer without a rule', (t) => t, false, { ...company, wildcard: true }, /allow rule/],
  ]
  test.each(refused)('refuses %s', (_name, change, software, issuer, reason) => {
    expect(productionFaults(load(change(sound)), agent(software), [issuer]).join('\n')).toMatch(reason)
  })

  test('accepts a software token with a stated reason, and a shared issuer with a rule', () => {
    const text = `${sound}softwareTokenAccepted: "pilot until the HSM is racked"\n`
    expect(
      productionFaults(load(text), agent(true), [{ ...company, issuerUrl: 'https://gitlab.com', hasAllowRule: true }]),
    ).toEqual([])
  })
})

const SIGNING_SOCKET = '{ socket: /run/chancery-agent/signing.sock }'

describe('the configuration', () => {
  test('takes a socket for each role that runs here', () => {
    const text = sound.replace(SIGNING_SOCKET, '{ sockets: { ca: a, log: b, timestamp: c } }')
    expect(parseConfig(text, 'chancery.yaml').agent).toEqual({ sockets: { ca: 'a', log: 'b', timestamp: 'c' } })
  })

  const faults: [string, (text: string) => string, RegExp][] = [
    ['an unknown key', (t) => `${t}colour: red\n`, /colour/],
    ['no profile', (t) => t.replace('profile: production', ''), /profile/],
    [
      'a trailing slash in a url',
      (t) => t.replace('https://fulcio.example.com', 'https://fulcio.example.com/'),
      /trailing slash/,
    ],
    ['a CT log that is not there', (t) => t.replace('ctLog: ct', 'ctLog: other'), /no CT log named other/],
    ['a listen value without a port', (t) => t.replace("listen: '127.0.0.1:3004'", "listen: '127.0.0.1'"), /host:port/],
    ['an agent without any socket', (t) => t.replace(SIGNING_SOCKET, '{}'), /agent/],
    ['one agent in two ways', (t) => t.replace(SIGNING_SOCKET, '{ socket: a, sockets: { ca: b } }'), /agent/],
    ['a role that is not there', (t) => t.replace(SIGNING_SOCKET, '{ sockets: { admin: a } }'), /admin/],
    [
      'no socket for a service that runs here',
      (t) => t.replace(SIGNING_SOCKET, '{ sockets: { ca: a, log: b } }'),
      /agent.sockets.timestamp: needed, since timestamp runs here/,
    ],
    [
      'a socket of a role that nothing here has',
      (t) => t.replace(SIGNING_SOCKET, '{ sockets: { ca: a, log: b, timestamp: c, trust: d } }'),
      /agent.sockets.trust: nothing here uses it/,
    ],
    ['a duplicate YAML key', (t) => `${t}domain: other\n`, /unique/],
    [
      'a key shared by two logs',
      (t) =>
        t.replace(
          'timestamp:',
          "  - { kind: rekor-v2, name: v2, listen: 'a:1', url: 'http://a:1', origin: v2.example.com, key: ct, database: logs/v2.db }\ntimestamp:",
        ),
      /log key ct is used twice/,
    ],
    [
      'a Rekor v1 origin without its tree id',
      (t) =>
        t.replace(
          'timestamp:',
          "  - { kind: rekor-v1, name: v1, listen: 'a:1', url: 'http://a:1', origin: v1.example.com, treeId: '5', key: v1, database: logs/v1.db }\ntimestamp:",
        ),
      /must end in/,
    ],
  ]
  test.each(faults)('refuses %s', (_name, change, reason) => {
    expect(() => parseConfig(change(sound), 'chancery.yaml')).toThrow(reason)
  })
})

describe('anchors in the configuration', () => {
  const url = "url: 'https://witness.example.org'"
  test('a witness and a folder are taken, with what is not said filled in', () => {
    const { anchors } = load(
      `${sound}anchors: [{ ${WITNESS}, ${url} }, { kind: file, name: f, path: /mnt/a, logs: [ct] }]\n`,
    ).config
    expect(anchors).toMatchObject([
      { kind: 'witness', required: false, onClaim: 'freeze', everySeconds: 5, staleSeconds: 600 },
      { kind: 'file', logs: ['ct'], required: false },
    ])
    expect(productionFaults(load(`${sound}anchors: [{ ${WITNESS}, ${url} }]\n`), agent(false), [company])).toEqual([])
  })

  test.each([
    ['two of one name', `{ ${WITNESS}, ${url} }, { kind: file, name: w, path: /mnt/a }`, /anchor w is used twice/],
    ['a log that is not there', `{ ${WITNESS}, ${url}, logs: [rekor] }`, /no log named rekor/],
    ['no logs at all', `{ ${WITNESS}, ${url}, logs: [] }`, /logs/],
    ['a key that is none', `{ kind: witness, name: w, ${url}, vkey: 'w+00000000+AAAA' }`, /verifier key/],
    ["a log's key", `{ kind: witness, name: w, ${url}, vkey: '${VKEY.replace('+BJ', '+AZ')}' }`, /verifier key/],
    ['no key', `{ kind: witness, name: w, ${url} }`, /vkey/],
    ['no address', `{ ${WITNESS} }`, /url/],
    ['a folder with a url', `{ kind: file, name: f, path: /mnt/a, ${url} }`, /url/],
    ['a kind that is none', `{ kind: s3, name: f, path: /mnt/a }`, /kind/],
    ['a claim that does something else', `{ ${WITNESS}, ${url}, onClaim: ignore }`, /onClaim/],
  ])('refuses %s', (_, anchors, words) => {
    expect(() => load(`${sound}anchors: [${anchors}]\n`)).toThrow(words)
  })
})
