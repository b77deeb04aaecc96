import { execFileSync } from 'node:child_process'
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { NativeError, peerCredentials, verifyEcdsaDigest, type Curve, type EcdsaDigestSignature } from '#native'
import { checkKnownAnswers } from './known-answers.ts'

/** A signature by node:crypto, taken apart as callers of the addon do. */
function signedByNode(curve: Curve, hash: 'sha256' | 'sha384' | 'sha512', message: string): EcdsaDigestSignature {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: curve })
  const rs = sign(hash, Buffer.from(message), { key: privateKey, dsaEncoding: 'ieee-p1363' })
  const spki = publicKey.export({ format: 'der', type: 'spki' })
  const size = rs.length / 2
  return {
    curve,
    point: Uint8Array.from(spki.subarray(spki.length - 1 - 2 * size)),
    r: Uint8Array.from(rs.subarray(0, size)),
    s: Uint8Array.from(rs.subarray(size)),
    digest: Uint8Array.from(createHash(hash).update(message).digest()),
  }
}

describe('verifyEcdsaDigest', () => {
  test('gives the known answers', () => {
    expect(checkKnownAnswers(verifyEcdsaDigest)).toBeUndefined()
  })

  test.each([
    ['says yes to everything', () => true],
    ['says no to everything', () => false],
    [
      'throws always',
      () => {
        throw new Error('broken')
      },
    ],
    ['forgets about the digest', (given: EcdsaDigestSignature) => verifyEcdsaDigest(given) || given.digest[0] === 0xae],
    [
      'lets r = 0 pass',
      (given: EcdsaDigestSignature) => given.r.every((octet) => octet === 0) || verifyEcdsaDigest(given),
    ],
  ] as const)('known answers catch a verifier that %s', (_, verify: (given: EcdsaDigestSignature) => boolean) => {
    expect(checkKnownAnswers(verify)).toBeTypeOf('string')
  })

  test.each([
    ['P-256', 'sha256'],
    ['P-256', 'sha384'],
    ['P-256', 'sha512'],
    ['P-384', 'sha256'],
    ['P-384', 'sha384'],
    ['P-384', 'sha512'],
    ['P-521', 'sha256'],
    ['P-521', 'sha512'],
  ] as const)('agrees with node:crypto on %s over %s', (curve, hash) => {
    for (let round = 0; round < 8; round++) {
      const signature = signedByNode(curve, hash, `message ${round}`)
      expect(verifyEcdsaDigest(signature)).toBe(true)
      for (const field of ['r', 's', 'digest'] as const) {
        // The first octet: what lies behind the order's length is cut off from a long digest.
        const spoiled = signature[field].map((octet, index) => (index === 1 ? octet ^ 0x10 : octet))
        expect(verifyEcdsaDigest({ ...signature, [field]: spoiled })).toBe(false)
      }
    }
  })

  test.each([
    ['r too short', (s: EcdsaDigestSignature) => ({ ...s, r: s.r.subarray(1) })],
    ['s too long', (s: EcdsaDigestSignature) => ({ ...s, s: Uint8Array.from([0, ...s.s]) })],
    ['point cut off', (s: EcdsaDigestSignature) => ({ ...s, point: s.point.subarray(0, 33) })],
    [
      'point of 0x02 form',
      (s: EcdsaDigestSignature) => ({ ...s, point: Uint8Array.from([2, ...s.point.subarray(1)]) }),
    ],
    ['another curve', (s: EcdsaDigestSignature) => ({ ...s, curve: 'P-521' as const })],
    ['digest of 27 bytes', (s: EcdsaDigestSignature) => ({ ...s, digest: new Uint8Array(27) })],
    ['digest of 65 bytes', (s: EcdsaDigestSignature) => ({ ...s, digest: new Uint8Array(65) })],
    ['bytes that are text', (s: EcdsaDigestSignature) => ({ ...s, digest: 'abc' as unknown as Uint8Array })],
    [
      'words instead of bytes',
      (s: EcdsaDigestSignature) => ({ ...s, digest: new Uint16Array(32) as unknown as Uint8Array }),
    ],
    ['unknown curve', (s: EcdsaDigestSignature) => ({ ...s, curve: 'P-224' as Curve })],
  ])('throws on %s', (_, spoil) => {
    expect(() => verifyEcdsaDigest(spoil(signedByNode('P-256', 'sha256', 'x')))).toThrow(NativeError)
  })

  test('reads views that do not begin at their buffer', () => {
    const signature = signedByNode('P-256', 'sha256', 'x')
    const shifted = Uint8Array.from([9, 9, 9, ...signature.digest, 9]).subarray(3, 35)
    expect(verifyEcdsaDigest({ ...signature, digest: shifted })).toBe(true)
  })
})

/** Descriptor of a socket; Node shows it only on the handle. */
function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { _handle: { fd: number } }
  return handle.fd
}

/** The kernel sorts the groups; Node adds the effective one. */
function sameSet(groups: readonly number[], own: readonly number[]): boolean {
  const primary = process.getgid?.() ?? -1
  const sorted = (numbers: readonly number[]) => [...new Set([...numbers, primary])].toSorted((a, b) => a - b).join()
  return sorted(groups) === sorted(own)
}

describe('peerCredentials', () => {
  test('names the process that connected', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'peer-')), 's')
    const server = createServer().listen(path)
    const accepted = once(server, 'connection')
    const client = createConnection(path)
    const [socket] = (await accepted) as [Socket]
    expect(peerCredentials(descriptorOf(socket))).toEqual({
      pid: process.pid,
      uid: process.getuid?.(),
      gid: process.getgid?.(),
      groups: expect.toSatisfy((groups: number[]) => sameSet(groups, process.getgroups?.() ?? [])),
    })
    client.destroy()
    socket.destroy()
    server.close()
  })

  test('refuses a TCP socket, a file and nonsense', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = server.address()
    const accepted = once(server, 'connection')
    const client = createConnection(typeof address === 'object' ? (address?.port ?? 0) : 0, '127.0.0.1')
    const [socket] = (await accepted) as [Socket]
    const file = openSync('/dev/null', 'r')
    for (const fd of [descriptorOf(socket), file, -1, 99_999, Number.NaN])
      expect(() => peerCredentials(fd)).toThrow(NativeError)
    closeSync(file)
    client.destroy()
    socket.destroy()
    server.close()
  })
})

test('setNotDumpable takes core files and the process memory away', () => {
  // In a process of its own: it cannot be undone. The owner of /proc/self/mem says something only if root does not run this.
  const script = `
    import { readFileSync, statSync } from 'node:fs'
    import { setNotDumpable } from '#native'
    setNotDumpable()
    const limit = /Max core file size +(\\S+) +(\\S+)/.exec(readFileSync('/proc/self/limits', 'utf8'))
    console.log(JSON.stringify([limit[1], limit[2], statSync('/proc/self/mem').uid]))`
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: join(import.meta.dirname, '..'),
    encoding: 'utf8',
  })
  expect(JSON.parse(out)).toEqual(['0', '0', 0])
})
