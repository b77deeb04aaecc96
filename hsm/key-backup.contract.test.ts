/** Wrapped backup on SoftHSM: what leaves a token and under which key, and that it signs on another one. */
import { execFileSync } from 'node:child_process'
import { createPublicKey, verify } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pkcs11js from 'pkcs11js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { AdminAgent, GeneratedKey, WrappedKey } from './administration.ts'
import { need } from './agent.fixture.ts'
import {
  acceptKek,
  makeKek,
  requestFingerprint,
  requestKek,
  shareKek,
  type KekRequest,
  type OfficerToken,
} from './security-officer.ts'
import { HsmError } from './signing.ts'
import { createSoftTokens, type SoftTokens } from './softhsm.ts'
import { spawnAgent, type SpawnedAgent } from './spawn.ts'

const LABELS = ['online', 'recovery', 'stranger'] as const
type Label = (typeof LABELS)[number]

let folder: string
let soft: SoftTokens
let spawned: SpawnedAgent
let agent: AdminAgent
let key: GeneratedKey
let backup: WrappedKey
/** Of `recovery`; RSA keys take SoftHSM seconds. */
let request: KekRequest

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'chancery-kek-'))
  mkdirSync(join(folder, 'agent'))
  soft = await createSoftTokens({ folder: join(folder, 'hsm'), labels: LABELS })
  const tokens = Object.fromEntries(
    soft.tokens.map(({ label, pinFile, uri }) => [label, { uri, pinFile, softhsmConf: soft.confPath }]),
  )
  const configPath = join(folder, 'agent/agent.yaml')
  writeFileSync(
    configPath,
    stringify({ state: 'state', modulePath: soft.modulePath, tokens, adminWhenSpawned: true, sessions: 1 }),
  )
  spawned = await spawnAgent({ configPath, admin: true })
  agent = need(spawned.admin)
})

afterAll(async () => {
  await spawned.close()
  rmSync(folder, { recursive: true })
})

function officer(label: Label): OfficerToken {
  const { pinFile, uri } = need(soft.tokens.find((token) => token.label === label))
  const soPinFile = join(folder, 'hsm', `${label}.so-pin`)
  return { modulePath: soft.modulePath, softhsmConf: soft.confPath, uri, pinFile, soPinFile }
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    if (error instanceof HsmError) return `${error.code} ${error.reason}`
    throw error
  }
  return 'done'
}

describe('before there is a key-encryption key', () => {
  test('a key made for backup cannot be wrapped', async () => {
    key = await agent.generateKey({ token: 'online', label: 'ca', kind: 'P-384', backup: true })
    expect(key.unproven).toEqual([])
    expect(await refusal(agent.wrapKey({ token: 'online', idHex: key.idHex }))).toBe('refused no_kek')
  })

  test('a share is refused to a request that was changed', async () => {
    await makeKek(officer('online'))
    request = await requestKek(officer('recovery'))
    const short = { ...request, modulusHex: request.modulusHex.slice(2) }
    expect(await refusal(shareKek(officer('online'), short))).toBe('refused bad_request')
    expect(requestFingerprint(short)).not.toBe(requestFingerprint(request))
  })

  test('one token has one', async () => {
    expect(await refusal(makeKek(officer('online')))).toBe('refused kek_exists')
  })

  test('a token without one has none to share', async () => {
    expect(await refusal(shareKek(officer('stranger'), request))).toBe('refused no_kek')
  })
})

describe('the key-encryption key', () => {
  test('is trusted, private, for wrapping alone, and cannot be read', async () => {
    const objects = await agent.listObjects('online')
    const [kek, second] = objects.filter((each) => each.class === 'secret key')
    expect(second).toBeUndefined()
    expect(kek).toMatchObject({
      label: 'chancery-kek',
      attributes: {
        TRUSTED: 'yes',
        PRIVATE: 'yes',
        SENSITIVE: 'yes',
        WRAP: 'yes',
        UNWRAP: 'no',
        DECRYPT: 'no',
        ENCRYPT: 'no',
        WRAP_WITH_TRUSTED: 'yes',
        MODIFIABLE: 'no',
      },
    })
  })

  test('travels under the key of the token that asked for it, to that token alone', async () => {
    const share = await shareKek(officer('online'), request)
    const otherRequest = await requestKek(officer('stranger'))
    expect(await refusal(acceptKek(officer('stranger'), share))).toBe('refused no_request')
    const misdirected = { ...share, requestIdHex: otherRequest.idHex }
    expect(await refusal(acceptKek(officer('stranger'), misdirected))).not.toBe('done')
    expect(await acceptKek(officer('recovery'), share)).toEqual({ kekIdHex: share.kekIdHex })
    const left = await agent.listObjects('recovery')
    expect(left.map(({ class: name, label }) => [name, label])).toEqual([['secret key', 'chancery-kek']])
    expect(await refusal(acceptKek(officer('recovery'), share))).toBe('refused kek_exists')
  })

  test('is not made with a wrong PIN of the security officer, which is tried once', async () => {
    const wrong = join(folder, 'wrong.so-pin')
    writeFileSync(wrong, 'not-the-pin\n', { mode: 0o600 })
    const mistaken = { ...officer('stranger'), soPinFile: wrong }
    expect(await refusal(makeKek(mistaken))).toBe('latched pin_refused')
    // SoftHSM remembers it; nobody tries again, with whatever PIN.
    expect(await refusal(makeKek(officer('stranger')))).toBe('latched pin_count_low')
  })

  test.each([0o640, 0o604])('is not made with a PIN file of mode %o', async (mode) => {
    const path = join(folder, `mode-${mode}.so-pin`)
    writeFileSync(path, 'x\n')
    chmodSync(path, mode)
    expect(await refusal(makeKek({ ...officer('online'), soPinFile: path }))).toBe('unavailable pin_file_mode')
  })
})

describe('a backup', () => {
  test('is made under the trusted key, and says what it holds', async () => {
    backup = await agent.wrapKey({ token: 'online', idHex: key.idHex })
    expect(backup).toMatchObject({ label: 'ca', idHex: key.idHex, kind: 'P-384', mechanism: 'AES-KWP' })
    expect(Buffer.from(backup.spkiDer)).toEqual(Buffer.from(key.spkiDer))
  })

  test.each([
    ['a key that was not made for it', 'not_extractable'],
    ['an id that nobody has', 'no_such_key'],
  ] as const)('is refused of %s', async (what, reason) => {
    const idHex =
      what === 'an id that nobody has'
        ? '00ff'
        : (await agent.generateKey({ token: 'online', label: 'stays', kind: 'P-256' })).idHex
    expect(await refusal(agent.wrapKey({ token: 'online', idHex }))).toBe(`refused ${reason}`)
  })

  test.each(['rsa-2048', 'P-256'] as const)(
    'of a key of kind %s comes back on another token and signs',
    async (kind) => {
      const { idHex, spkiDer } = await agent.generateKey({ token: 'online', label: `k-${kind}`, kind, backup: true })
      const wrapped = await agent.wrapKey({ token: 'online', idHex })
      const restored = await agent.unwrapKey({ token: 'recovery', key: wrapped })
      expect(restored).toMatchObject({ idHex, kind, token: 'recovery', already: false })
      expect(Buffer.from(restored.spkiDer)).toEqual(Buffer.from(spkiDer))
    },
  )

  test('SoftHSM does not wrap Ed25519; it says so', async () => {
    const { idHex } = await agent.generateKey({ token: 'online', label: 'ed', kind: 'ed25519', backup: true })
    expect(await refusal(agent.wrapKey({ token: 'online', idHex }))).toBe('refused not_wrappable')
  })

  test('comes back once; again it is found to be there', async () => {
    const first = await agent.unwrapKey({ token: 'recovery', key: backup })
    expect(first.unproven).toEqual(['LOCAL', 'ALWAYS_SENSITIVE', 'NEVER_EXTRACTABLE'])
    expect(first.already).toBe(false)
    expect((await agent.unwrapKey({ token: 'recovery', key: backup })).already).toBe(true)
    const halves = (await agent.listObjects('recovery')).filter(({ idHex }) => idHex === key.idHex)
    expect(halves.map((half) => half.class).toSorted()).toEqual(['private key', 'public key'])
  })

  test('can be made again from the restored key, and is signed with by a stranger to this project', async () => {
    expect((await agent.wrapKey({ token: 'recovery', idHex: key.idHex })).kekIdHex).toBe(backup.kekIdHex)
    const message = join(folder, 'message')
    const signature = join(folder, 'signature')
    writeFileSync(message, Buffer.alloc(48, 7))
    const pin = readFileSync(officer('recovery').pinFile, 'utf8').trim()
    execFileSync(
      'pkcs11-tool',
      ['--module', soft.modulePath, '--token-label', 'recovery', '--login', '--pin', pin, '--sign', '--id', key.idHex]
        .concat(['--mechanism', 'ECDSA', '--signature-format', 'openssl'])
        .concat(['--input-file', message, '--output-file', signature]),
      { env: { SOFTHSM2_CONF: soft.confPath }, stdio: 'ignore' },
    )
    const publicKey = createPublicKey({ key: Buffer.from(key.spkiDer), format: 'der', type: 'spki' })
    expect(signsDigest(publicKey, readFileSync(signature))).toBe(true)
  })

  test.each([
    ['with one bit of the wrapped key turned over', { wrapped: 'flip' }, 'unwrap_refused'],
    ['of another key-encryption key', { kekIdHex: '00'.repeat(16) }, 'no_kek'],
    ['with the public key of another', { spkiDer: 'other' }, 'wrong_key'],
    ['under a mechanism that it was not made with', { mechanism: 'AES-CBC' }, 'bad_mechanism'],
    ['whose kind is another', { kind: 'P-256' }, 'bad_kind'],
  ] as const)('%s is refused, and leaves nothing', async (_what, change, reason) => {
    const changed = { ...backup, idHex: 'a1'.repeat(16), label: 'changed' }
    const other = await agent.generateKey({ token: 'online', label: `o-${reason}`, kind: 'P-384' })
    const altered = {
      ...changed,
      ...change,
      wrapped: 'wrapped' in change ? flipped(backup.wrapped) : backup.wrapped,
      spkiDer: 'spkiDer' in change ? other.spkiDer : backup.spkiDer,
    } as WrappedKey // a sender that does not keep to the type
    const before = (await agent.listObjects('recovery')).length
    expect(await refusal(agent.unwrapKey({ token: 'recovery', key: altered }))).toBe(`refused ${reason}`)
    expect((await agent.listObjects('recovery')).length).toBe(before)
  })

  test('does not come back on a token without the key-encryption key', async () => {
    expect(await refusal(agent.unwrapKey({ token: 'stranger', key: backup }))).toBe('refused no_kek')
  })
})

/** What somebody with the PIN, but without the security officer, gets from the token itself. */
describe('a thief of the PIN', () => {
  const CKA = {
    value: 0x11,
    trusted: 0x86,
    wrapWithTrusted: 0x210,
    sensitive: 0x103,
    token: 1,
    wrap: 0x106,
    unwrap: 0x107,
    decrypt: 0x105,
    modifiable: 0x170,
  }
  let module: pkcs11js.PKCS11
  let session: Buffer

  beforeAll(() => {
    process.env['SOFTHSM2_CONF'] = soft.confPath
    module = new pkcs11js.PKCS11()
    module.load(soft.modulePath)
    module.C_Initialize({ flags: 2 })
    const slot = need(module.C_GetSlotList(true).find((each) => module.C_GetTokenInfo(each).label.trim() === 'online'))
    session = module.C_OpenSession(slot, 6)
    module.C_Login(session, 1, readFileSync(officer('online').pinFile, 'utf8').trim())
  })

  const find = (template: pkcs11js.Template): Buffer => {
    module.C_FindObjectsInit(session, template)
    const [found] = module.C_FindObjects(session, 1)
    module.C_FindObjectsFinal(session)
    return Buffer.from(need(found))
  }
  const privateKey = () =>
    find([
      { type: 0, value: 3 },
      { type: 0x102, value: Buffer.from(key.idHex, 'hex') },
    ])
  const kek = () =>
    find([
      { type: 0, value: 4 },
      { type: 3, value: 'chancery-kek' },
    ])
  const aes = { mechanism: 0x1080, parameter: Buffer.alloc(0) }
  const own = (more: pkcs11js.Template = []) =>
    module.C_GenerateKey(session, aes, [
      { type: 0x161, value: 32 },
      { type: CKA.token, value: false },
      { type: CKA.wrap, value: true },
      ...more,
    ])
  const wrap = (under: Buffer, what: Buffer) =>
    module.C_WrapKey(session, { mechanism: 0x210a }, under, what, Buffer.alloc(4096))

  test('wraps no key under one of his own', () => {
    expect(() => wrap(own(), privateKey())).toThrow(/KEY_NOT_WRAPPABLE/)
    expect(() => wrap(own(), kek())).toThrow(/KEY_NOT_WRAPPABLE/)
  })

  test('makes none trusted', () => {
    expect(() => own([{ type: CKA.trusted, value: true }])).toThrow(/ATTRIBUTE_READ_ONLY/)
    expect(() => module.C_SetAttributeValue(session, own(), [{ type: CKA.trusted, value: true }])).toThrow(/READ_ONLY/)
  })

  test.each(['private key', 'key-encryption key'])('reads no %s', (which) => {
    const object = which === 'private key' ? privateKey() : kek()
    expect(() => module.C_GetAttributeValue(session, object, [{ type: CKA.value }])).toThrow(/ATTRIBUTE_SENSITIVE/)
  })

  test.each([
    ['WRAP_WITH_TRUSTED', CKA.wrapWithTrusted],
    ['SENSITIVE', CKA.sensitive],
  ])('takes no %s away, nor from a copy', (_name, type) => {
    const off = [{ type, value: false }]
    expect(() => module.C_SetAttributeValue(session, privateKey(), off)).toThrow(/READ_ONLY/)
    expect(() => module.C_CopyObject(session, privateKey(), [...off, { type: CKA.token, value: false }])).toThrow(
      /READ_ONLY/,
    )
  })

  test('does not have the online token unwrap its own backups', () => {
    const unwrap = () =>
      module.C_UnwrapKey(session, { mechanism: 0x210a }, kek(), Buffer.from(backup.wrapped), [
        { type: 0, value: 3 },
        { type: 0x100, value: 3 },
        { type: CKA.token, value: false },
        { type: CKA.sensitive, value: false },
      ])
    expect(unwrap).toThrow(/KEY_FUNCTION_NOT_PERMITTED/)
    for (const change of [CKA.unwrap, CKA.modifiable, CKA.decrypt]) {
      for (const where of [[], [{ type: CKA.token, value: false }]]) {
        const copy = () => module.C_CopyObject(session, kek(), [...where, { type: change, value: true }])
        expect(copy, `copy with 0x${change.toString(16)}`).toThrow(/READ_ONLY|PROHIBITED/)
      }
    }
    expect(() => module.C_SetAttributeValue(session, kek(), [{ type: CKA.unwrap, value: true }])).toThrow(
      /ACTION_PROHIBITED|READ_ONLY|VENDOR_DEFINED/,
    )
  })
})

/** An ECDSA signature over a digest of 48 octets of 7, checked with openssl: node hashes again. */
function signsDigest(publicKey: ReturnType<typeof createPublicKey>, signature: Buffer): boolean {
  const files = { key: join(folder, 'key.pem'), signature: join(folder, 'sig.der') }
  writeFileSync(files.key, publicKey.export({ type: 'spki', format: 'pem' }))
  writeFileSync(files.signature, signature)
  const said = execFileSync(
    'openssl',
    ['pkeyutl', '-verify', '-pubin', '-inkey', files.key, '-sigfile', files.signature, '-in', join(folder, 'message')],
    { encoding: 'utf8' },
  )
  return said.includes('Signature Verified Successfully') && !verify('sha384', Buffer.alloc(1), publicKey, signature)
}

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[20] = (copy[20] ?? 0) ^ 1
  return copy
}
