import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { CheckBudget } from './limits.ts'
import { checkChain, readPemKey } from './submitted-key.ts'
import { ecKeyPair, pemOf } from './material.fixture.ts'

const folder = mkdtempSync(join(tmpdir(), 'rekor-chain-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Issues with the openssl command, as a person with a private CA would; returns PEM. */
function issue(name: string, issuer: string | undefined, extensions: string, days = 1): string {
  const path = (suffix: string): string => join(folder, `${name}${suffix}`)
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: 'pipe' })
  openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', path('.key'))
  openssl('req', '-new', '-key', path('.key'), '-subj', `/CN=${name}`, '-out', path('.csr'))
  writeFileSync(path('.ext'), extensions)
  const signer =
    issuer === undefined
      ? ['-signkey', path('.key')]
      : ['-CA', join(folder, `${issuer}.pem`), '-CAkey', join(folder, `${issuer}.key`), '-CAcreateserial']
  openssl(
    'x509',
    '-req',
    '-in',
    path('.csr'),
    ...signer,
    '-days',
    String(days),
    '-extfile',
    path('.ext'),
    '-out',
    path('.pem'),
  )
  return readFileSync(path('.pem'), 'utf8')
}

const CA = 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n'
const root = issue('root', undefined, CA)
const otherRoot = issue('other-root', undefined, CA)
const intermediate = issue('intermediate', 'root', CA)
const second = issue('second', 'intermediate', CA)
const leaf = issue(
  'leaf',
  'intermediate',
  'subjectAltName=email:Dev@Example.com,URI:https://ci.example/Build,DNS:d.example',
)
const deepLeaf = issue('deep-leaf', 'second', 'subjectAltName=email:dev@example.com')
const tight = issue('tight', 'root', 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n')
const tooDeep = issue('too-deep', 'tight', CA)
const tooDeepLeaf = issue('too-deep-leaf', 'too-deep', 'subjectAltName=email:dev@example.com')
const notCa = issue('not-ca', 'root', 'basicConstraints=CA:FALSE')
const underNotCa = issue('under-not-ca', 'not-ca', 'subjectAltName=email:dev@example.com')
const narrowed = issue('narrowed', 'root', `${CA}nameConstraints=critical,permitted;email:example.org\n`)
const underNarrowed = issue('under-narrowed', 'narrowed', 'subjectAltName=email:dev@example.com')

const read = (text: string) => readPemKey(Buffer.from(text))
const key = pemOf(ecKeyPair())

describe('readPemKey', () => {
  test.each([
    ['as OpenSSL writes it', key],
    ['with CRLF', key.replaceAll('\n', '\r\n')],
    ['with spaces around', `\n\n  ${key}\n \n`],
    ['with text before it', `subject: somebody\n${key}`],
    [
      'in other line lengths',
      `-----BEGIN PUBLIC KEY-----\n${key.split('\n').slice(1, -2).join('')}\n-----END PUBLIC KEY-----`,
    ],
  ])('writes a key again canonically %s', (_, text) => {
    expect(read(text)).toMatchObject({ canonicalPem: key, subjects: [], chain: [] })
  })

  test('keeps a chain whole and in its order, and names the leaf', () => {
    const chain = `${leaf}\n\n${intermediate}text between\n${root}`
    expect(read(chain)).toMatchObject({
      canonicalPem: leaf + intermediate + root,
      publicKey: { kind: 'ecdsa', curve: 'P-256' },
    })
    expect(
      read(chain)
        .subjects.map(({ type, value }) => `${type}:${value}`)
        .toSorted(),
    ).toEqual(['dns:d.example', 'email:Dev@Example.com', 'uri:https://ci.example/Build'])
  })

  test('ten certificates are read, eleven are not', () => {
    expect(read(leaf + root.repeat(9)).chain).toHaveLength(10)
    expect(() => read(leaf + root.repeat(10))).toThrow('too many certificates')
  })

  test.each([
    ['nothing', ''],
    ['no PEM', 'ssh-ed25519 AAAA'],
    ['a private key', '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n'],
    ['a PKCS#1 key', '-----BEGIN RSA PUBLIC KEY-----\nMAAA\n-----END RSA PUBLIC KEY-----\n'],
    ['a key that has no end', key.slice(0, -10)],
    ['a key with text behind it', `${key}more`],
    ['two keys', key + key],
    ['a key behind a certificate', leaf + key],
    ['another curve', pemOf(ecKeyPair('secp256k1'))],
    ['base64 that is none', key.replace('M', '!')],
    ['a certificate cut short', leaf.replace(/\n.{64}\n/, '\n')],
    ['labels that differ', key.replace('END PUBLIC', 'END PRIVATE')],
    ['headers', key.replace('-----\n', '-----\nProc-Type: 4,ENCRYPTED\n\n')],
  ])('refuses %s', (_, text) => {
    expect(() => read(text)).toThrow(expect.objectContaining({ name: 'EntryError', code: 'invalid' }))
  })
})

describe('checkChain', () => {
  const check = (text: string, budget = new CheckBudget()): void => checkChain(read(text).chain, budget)

  test.each([
    ['one certificate, whoever signed it', leaf],
    ['leaf, intermediate, root', leaf + intermediate + root],
    ['leaf and intermediate as root', leaf + intermediate],
    ['two intermediates in any order', deepLeaf + intermediate + second + root],
    ['a certificate that is not needed', leaf + second + intermediate + root],
    ['the root twice', root + root],
  ])('accepts %s', (_, chain) => {
    expect(() => check(chain)).not.toThrow()
  })

  test.each([
    ['a root of others', leaf + intermediate + otherRoot],
    ['a missing intermediate', leaf + root],
    ['the order reversed', root + intermediate + leaf],
    ['an issuer that is no CA', underNotCa + notCa + root],
    ['a path longer than its constraint', tooDeepLeaf + tooDeep + tight + root],
    ['a critical extension that is not read', underNarrowed + narrowed + root],
    ['strangers', leaf + deepLeaf],
  ])('refuses %s', (_, chain) => {
    expect(() => check(chain)).toThrow(expect.objectContaining({ code: 'invalid' }))
  })

  test('cannot be made to verify without end', () => {
    // Every certificate could be the issuer of every other by name.
    const same = issue('same', undefined, CA)
    const others = Array.from({ length: 8 }, () => issue('same', undefined, CA)).join('')
    expect(() => check(same + others + issue('same', undefined, CA))).toThrow(/does not lead|more than 16/)
  })
})
