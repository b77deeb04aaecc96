/** What a plan may say: more that is refused than accepted. */
import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { accountOf } from './account.ts'
import { planDocument } from './plan.fixture.ts'
import { type Person, readPlan } from './plan.ts'
import { stepsOf } from './steps.ts'
import { TEMPLATES, type Template, templateText } from './templates.ts'

const spki = () =>
  generateKeyPairSync('ec', { namedCurve: 'P-256' })
    .publicKey.export({ type: 'spki', format: 'der' })
    .toString('base64')
const ssh = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBWVdO+y1nnTYBXCIAEbMSPDpf7HRS1OZyAuvSDpJBZu'
const minisign = 'RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3'
const operators = [
  { name: 'alice', field: 'ssh', publicKey: ssh },
  { name: 'bob', field: 'minisign', publicKey: minisign },
  { name: 'carol', field: 'pkcs11', publicKey: spki() },
] as const
const uris = {
  root: 'pkcs11:token=root;serial=1',
  online: 'pkcs11:token=online;serial=2',
  standby: 'pkcs11:token=standby;serial=3',
}
const document = planDocument({ operators, uris })
type Document = typeof document

const read = (value: object | string) => readPlan(Buffer.from(typeof value === 'string' ? value : stringify(value)))

/** Another value at a path; undefined takes it away. */
function changed(path: readonly (string | number)[], value: unknown): Document {
  const copy = structuredClone(document) as unknown as Record<string | number, unknown>
  let at = copy
  for (const name of path.slice(0, -1)) at = at[name] as Record<string | number, unknown> // as the test's path says
  const last = path.at(-1) ?? ''
  if (value === undefined) delete at[last]
  else at[last] = value
  return copy as unknown as Document
}

const pieceAt = (key: string) => document.make.findIndex((piece) => 'key' in piece && piece.key === key)

describe('a plan', () => {
  test('is read, and says what it comes to', () => {
    const { plan, sha256, warnings } = read(document)
    expect(plan.make).toHaveLength(11)
    expect(warnings).toEqual(['tuf-root: one key alone signs root', 'tuf-root: one key alone signs targets'])
    const account = accountOf(read(document))
    expect(account).toContain(sha256)
    expect(account).toMatch(
      /approved {3}by 2 of 3:\n +alice: ssh-ed25519 SHA256:\S{43}\n +bob: minisign E7620F1842B4E81F\n/,
    )
    expect(account).toMatch(/vault +makes the key root-ca, P-384, on token root: root CA\n/)
    expect(account).toMatch(
      /vault +root-ca signs the certificate of issuing-ca: issuing CA, O=Example Ltd, .*, 5 years\n/,
    )
    expect(account).toMatch(/on token standby: issuing CA, STANDS BY\n/)
    for (const line of account.split('\n')) expect(line).not.toMatch(/undefined/)
  })

  test('has a digest of its bytes: a comment or another order is another plan', () => {
    const text = stringify(document)
    const digests = [text, `# read it\n${text}`, stringify(Object.fromEntries(Object.entries(document).toReversed()))]
    expect(new Set(digests.map((each) => read(each).sha256)).size).toBe(3)
  })

  test('orders its steps so that each comes after those that it needs, whatever the order of the file', () => {
    for (const make of [document.make, document.make.toReversed()]) {
      const steps = stepsOf(read({ ...document, make }).plan)
      const seen = new Set<string>()
      for (const { id, after } of steps) {
        for (const before of after) expect(seen, `${id} after ${before}`).toContain(before)
        expect(seen).not.toContain(id)
        seen.add(id)
      }
      expect(steps.filter(({ what }) => what === 'key')).toHaveLength(13)
    }
  })
})

describe('a plan is refused', () => {
  const row = (path: readonly (string | number)[], value: unknown, words: RegExp) =>
    [path.join('.'), path, value, words] as const
  test.each([
    row(['colour'], 'red', /colour/),
    row(['ceremony'], 'Two Words', /names are/),
    row(['expires'], '2030-01-01', /expires/),
    row(['expires'], undefined, /expires/),
    row(['quorum'], 4, /a quorum of 4 of 3 can never approve/),
    row(['quorum'], 0, /quorum/),
    row(['operators', 1, 'name'], 'alice', /two people are named alice/),
    row(['operators', 1], { name: 'bob', ssh }, /alice and bob have the same key/),
    row(['operators', 1], { name: 'bob', ssh: `${ssh} bob@example`, minisign }, /exactly one|two words/),
    row(['operators', 1], { name: 'bob' }, /exactly one/),
    row(['operators', 0, 'ssh'], 'ssh-ed25519', /two words/),
    row(['operators', 1, 'minisign'], 'untrusted comment: x', /second line/),
    row(['witnesses'], [{ name: 'carol', ssh }], /two people are named carol[^]*alice and carol have the same key/),
    row(['tokens', 'root', 'pin'], '1234', /pin/),
    row(['tokens', 'root', 'uri'], 'pkcs11:token=root?pin-value=1234', /no PIN/),
    row(['tokens', 'root', 'uri'], uris.online, /two tokens have the URI/),
    row(['tokens', 'spare'], { machine: 'vault', uri: 'pkcs11:token=x', agent: 'x' }, /token spare is used by nothing/),
    row(['make', pieceAt('root-ca'), 'token'], 'safe', /there is no token safe/),
    row(['make', pieceAt('root-ca'), 'token'], 'online', /lie on online, the token of a root/),
    row(['make', pieceAt('root-ca'), 'kind'], 'ed25519', /takes no key of kind ed25519/),
    row(['make', pieceAt('root-ca'), 'years'], 5, /valid as long as its root/),
    row(['make', pieceAt('root-ca'), 'commonName'], '"><script>', /letters/),
    row(['make', pieceAt('issuing-ca'), 'issuer'], 'other', /there is no root other/),
    row(['make', pieceAt('issuing-ca'), 'ctKey'], 'rekor-v1', /neither a ct-log of this plan/),
    row(['make', pieceAt('issuing-ca'), 'key'], 'ct', /two keys are named ct/),
    row(['make', pieceAt('issuing-ca'), 'key'], 'ct-witness', /two keys are named ct-witness/),
    row(['make', pieceAt('tsa'), 'kind'], 'P-384', /timestamp-authority takes no key of kind P-384/),
    row(['make', pieceAt('ct'), 'kind'], 'P-384', /P-256/),
    row(['make', pieceAt('ct'), 'origin'], 'ct drill', /is a host name/),
    row(['make', pieceAt('ct'), 'origin'], 'rekor-v2.drill.test', /two logs have the origin/),
    row(['make', pieceAt('rekor-v1'), 'origin'], 'rekor-v1.drill.test', /host - tree id/),
    row(['make', 10, 'root', 'threshold'], 2, /2 of 1 can never sign root/),
    row(['make', 10, 'root', 'keys'], ['tuf-online'], /tuf-online is no tuf-key for root/),
    row(['make', 10, 'targets', 'keys'], ['tuf-root', 'tuf-root'], /stands twice/),
    row(['make', 10, 'online'], 'tuf-root', /no tuf-key for snapshot and timestamp/),
    row(['make'], [], /make/),
    row(['make', 0, 'what'], 'anything', /what/),
  ])('%s', (_name, path, value, words) => {
    expect(() => read(changed(path, value))).toThrow(words)
  })

  const text = stringify(document)
  test.each([
    ['bytes that are no UTF-8', Buffer.concat([Buffer.from(text), Buffer.from([0xff])]), /not UTF-8/],
    ['a character that turns the line', `${text}# \u202e`, /not shown \(U\+202E\)/],
    ['a character of no width', text.replace('alice', 'al\u200bice'), /line \d+ has a character that is not shown/],
    ['a tab', text.replace('ceremony: ', 'ceremony:\t'), /U\+0009/],
    ['lines ended as on Windows', text.replaceAll('\n', '\r\n'), /U\+000D/],
    ['a key that occurs twice', `${text}quorum: 1\n`, /unique/],
    ['an alias', `${text}x: &a 1\nwitnesses: [*a]\n`, /alias/],
    ['a tag', text.replace('quorum: 2', 'quorum: !!js/eval 2'), /tag/],
    ['what is no YAML', '{', /refused/],
    ['nothing', '', /refused/],
    ['64 KiB and more', `${text}#${' '.repeat(65_536)}`, /64 KiB/],
  ])('for %s', (_what, bytes, words) => {
    expect(() => readPlan(Buffer.from(bytes))).toThrow(words)
    expect(() => readPlan(Buffer.from(bytes))).toThrow(expect.objectContaining({ code: 'ceremony_plan_invalid' }))
  })
})

describe('templates', () => {
  const people: readonly Person[] = operators.map(({ name, field, publicKey }) => ({ name, [field]: publicKey }))
  const choices = {
    ceremony: 'first',
    domain: 'sig.example.test',
    organization: "O'Neill & Söhne",
    expires: new Date('2030-01-01T00:00:00Z'),
    operators: people,
    quorum: 2,
    uris: {},
    treeIds: ['72057594037927937', '72057594037927938'] as const,
    request: { key: 'next-ca', profile: 'issuing-ca', commonName: 'next', spkiSha256: '00'.repeat(32) },
    rootSha256: '00'.repeat(32),
    ctSpki: spki(),
  }
  test.each(Object.keys(TEMPLATES) as Template[])('%s is a plan once it is filled in', (template) => {
    const text = templateText(template, choices)
    const { warnings } = read(text)
    expect(warnings.filter((warning) => !/serial number|signs (?:root|targets)$/.test(warning))).toEqual([])
    expect(text.match(/^ *#/gm)?.length).toBeGreaterThan(8)
  })

  test.each(Object.keys(TEMPLATES) as Template[])('%s is none before', (template) => {
    const { request: _r, rootSha256: _s, ctSpki: _c, ...unknown } = { ...choices, operators: [] }
    expect(() => read(templateText(template, unknown))).toThrow(/refused/)
  })
})
