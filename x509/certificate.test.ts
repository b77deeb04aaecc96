import 'reflect-metadata'
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  randomBytes,
  sign,
  verify,
  X509Certificate as NodeCertificate,
} from 'node:crypto'
import type { KeyObject, webcrypto } from 'node:crypto'
import * as oracle from '@peculiar/x509'
import * as asn1js from 'asn1js'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  OID,
  X509Error,
  assembleCertificate,
  bitString,
  boolean,
  concatBytes,
  contextConstructed,
  contextPrimitive,
  decodeFulcioExtensions,
  decodeSctList,
  encodeFulcioExtensions,
  encodeName,
  encodeSctList,
  integer,
  lintIssuedLeaf,
  merkleTreeLeaf,
  makeIssuer,
  objectIdentifier,
  octetString,
  parseCertificate,
  parseName,
  parseSct,
  parseSpki,
  parseTbsCertificate,
  prepareCertificate,
  sctSignatureInput,
  sequence,
  serializeSct,
  time,
  treeHeadSignatureInput,
  verifyCertificateSignature,
  withoutExtension,
  type CertificateProfile,
  type FulcioExtensions,
} from '#x509'

const NOW = new Date('2026-08-20T10:00:00Z')
const later = (seconds: number): Date => new Date(NOW.getTime() + seconds * 1000)

const keys = {
  p256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p384: generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  leaf: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
}
const spkiOf = (key: KeyObject): Uint8Array => Uint8Array.from(key.export({ format: 'der', type: 'spki' }))

/** Issues CA certificates as the ceremonies do; what a certificate here gets wrong is the caller's to choose. */
async function caCertificate(
  pair: { privateKey: KeyObject; publicKey: KeyObject },
  extensions: (publicKey: webcrypto.CryptoKey) => Promise<oracle.Extension[]> = async (publicKey) => [
    new oracle.BasicConstraintsExtension(true, 0, true),
    new oracle.KeyUsagesExtension(oracle.KeyUsageFlags.keyCertSign | oracle.KeyUsageFlags.cRLSign, true),
    new oracle.ExtendedKeyUsageExtension([OID.codeSigning]),
    await oracle.SubjectKeyIdentifierExtension.create(publicKey),
  ],
): Promise<Uint8Array> {
  const namedCurve = pair.publicKey.asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 'P-384' : 'P-256'
  const algorithm = { name: 'ECDSA', namedCurve, hash: namedCurve === 'P-384' ? 'SHA-384' : 'SHA-256' }
  const privateKey = await crypto.subtle.importKey(
    'pkcs8',
    pair.privateKey.export({ format: 'der', type: 'pkcs8' }),
    algorithm,
    true,
    ['sign'],
  )
  const publicKey = await crypto.subtle.importKey(
    'spki',
    pair.publicKey.export({ format: 'der', type: 'spki' }),
    algorithm,
    true,
    ['verify'],
  )
  const certificate = await oracle.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01',
    name: 'O=Chancery, CN=issuing',
    notBefore: later(-3600),
    notAfter: later(86_400),
    keys: { privateKey, publicKey },
    signingAlgorithm: algorithm,
    extensions: await extensions(publicKey),
  })
  return new Uint8Array(certificate.rawData)
}

const issuers = { p256: makeIssuer(await caCertificate(keys.p256)), p384: makeIssuer(await caCertificate(keys.p384)) }

const EVERYTHING: FulcioExtensions = {
  issuer: 'https://token.actions.example',
  githubWorkflowTrigger: 'push',
  githubWorkflowSha: 'a'.repeat(40),
  githubWorkflowName: 'release — über',
  githubWorkflowRepository: 'org/repo',
  githubWorkflowRef: 'refs/heads/main',
  buildSignerUri: 'https://github.example/org/repo/.github/workflows/x.yml@refs/heads/main',
  buildSignerDigest: 'b'.repeat(40),
  runnerEnvironment: 'github-hosted',
  sourceRepositoryUri: 'https://github.example/org/repo',
  sourceRepositoryDigest: 'c'.repeat(40),
  sourceRepositoryRef: 'refs/heads/main',
  sourceRepositoryIdentifier: '1',
  sourceRepositoryOwnerUri: 'https://github.example/org',
  sourceRepositoryOwnerIdentifier: '2',
  buildConfigUri: 'https://github.example/config',
  buildConfigDigest: 'd'.repeat(40),
  buildTrigger: 'push',
  runInvocationUri: 'https://github.example/run/1',
  sourceRepositoryVisibilityAtSigning: 'private',
  deploymentEnvironment: 'production',
  tokenSubject: 'repo:org/repo:ref:refs/heads/main',
}

function wanted(changes: Partial<CertificateProfile> = {}): CertificateProfile {
  return {
    issuer: issuers.p256,
    serial: Uint8Array.from([0x3f, ...randomBytes(19)]),
    notBefore: NOW,
    notAfter: later(600),
    publicKey: parseSpki(spkiOf(keys.leaf.publicKey)),
    subjectAltName: { type: 'uri', value: 'https://github.example/org/repo' },
    fulcioExtensions: encodeFulcioExtensions(EVERYTHING),
    ...changes,
  }
}

const SCT = serializeSct({
  logId: new Uint8Array(32).fill(7),
  timestampMs: NOW.getTime(),
  extensions: new Uint8Array(0),
  signatureDer: sequence(integer(1), integer(2)),
})

function issue(profile: CertificateProfile): Uint8Array {
  const tbs = prepareCertificate(profile).certificateTbs([SCT])
  const p384 = profile.issuer === issuers.p384
  const signature = p384 ? sign('sha384', tbs, keys.p384.privateKey) : sign('sha256', tbs, keys.p256.privateKey)
  return assembleCertificate(tbs, profile.issuer.signatureAlgorithm, signature)
}

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof X509Error) return error.code
    throw error
  }
  return 'accepted'
}

describe('a signing certificate', () => {
  test.each(['p256', 'p384'] as const)(
    'under a %s issuer reads the same to us, to Node and to @peculiar/x509',
    async (curve) => {
      const profile = wanted({ issuer: issuers[curve] })
      const der = issue(profile)
      const certificate = parseCertificate(der)
      lintIssuedLeaf(certificate, profile.issuer, profile)

      const node = new NodeCertificate(der)
      expect(node.serialNumber.toLowerCase()).toBe(Buffer.from(profile.serial).toString('hex'))
      expect(node.verify(keys[curve].publicKey)).toBe(true)
      expect(node.subjectAltName).toBe('URI:https://github.example/org/repo')
      expect([new Date(node.validFrom), new Date(node.validTo)]).toEqual([NOW, later(600)])

      const foreign = new oracle.X509Certificate(der)
      expect(
        await foreign.verify({ publicKey: new oracle.PublicKey(spkiOf(keys[curve].publicKey)), date: later(1) }),
      ).toBe(true)
      expect(foreign.extensions.map(({ type, critical }) => [type, critical])).toEqual([
        [OID.keyUsage, true],
        [OID.extKeyUsage, false],
        [OID.subjectKeyIdentifier, false],
        [OID.authorityKeyIdentifier, false],
        [OID.subjectAltName, true],
        ...[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24].map((arc) => [
          `${OID.fulcio}.${arc}`,
          false,
        ]),
        [OID.sctList, false],
      ])
      expect(foreign.extensions.map(({ value }) => Buffer.from(value))).toEqual(
        certificate.extensions.map(({ value }) => Buffer.from(value)),
      )
      const ski = foreign.getExtension(oracle.SubjectKeyIdentifierExtension)
      expect(ski?.keyId).toBe(createHash('sha1').update(spkiOf(keys.leaf.publicKey).subarray(26)).digest('hex'))
      expect(new Uint8Array(asn1js.fromBER(Buffer.from(der)).result.toBER())).toEqual(der)
    },
  )

  test('puts raw text in .1 to .6 and UTF8String in .8 to .24, and reads it back', () => {
    const certificate = parseCertificate(issue(wanted()))
    expect(Buffer.from(certificate.extension(`${OID.fulcio}.1`)?.value ?? []).toString()).toBe(EVERYTHING.issuer)
    expect(certificate.extension(`${OID.fulcio}.8`)?.value[0]).toBe(0x0c)
    expect(decodeFulcioExtensions(certificate)).toEqual(EVERYTHING)
  })

  test('differs from its precertificate in poison and SCT list alone', () => {
    const prepared = prepareCertificate(wanted())
    const precertificate = prepared.precertificateTbs()
    const certificate = prepared.certificateTbs([SCT])
    const { tbsDer, issuerKeyHash } = prepared.sctInput()
    expect(parseTbsCertificate(precertificate).extensions.at(-1)).toMatchObject({ oid: OID.ctPoison, critical: true })
    expect(withoutExtension(precertificate, OID.ctPoison)).toEqual(tbsDer)
    expect(withoutExtension(certificate, OID.sctList)).toEqual(tbsDer)
    expect(Buffer.from(issuerKeyHash)).toEqual(createHash('sha256').update(spkiOf(keys.p256.publicKey)).digest())
    expect(decodeSctList(parseTbsCertificate(certificate).extension(OID.sctList)?.value ?? new Uint8Array(0))).toEqual([
      SCT,
    ])
  })

  test('can be taken from its preparation once', () => {
    const prepared = prepareCertificate(wanted())
    prepared.precertificateTbs()
    prepared.certificateTbs([SCT])
    expect(codeOf(() => prepared.precertificateTbs())).toBe('profile')
    expect(codeOf(() => prepared.certificateTbs([SCT]))).toBe('profile')
  })

  test.each([
    ['email', { type: 'email', value: 'a@example.com' }],
    ['uri', { type: 'uri', value: 'spiffe://domain/x' }],
    ['otherName', { type: 'otherName', oid: OID.fulcioUsername, value: 'üser!example.com' }],
  ] as const)('carries one critical name of type %s', (_, subjectAltName) => {
    const certificate = parseCertificate(issue(wanted({ subjectAltName })))
    expect(certificate.subjectAltNames).toEqual([subjectAltName])
    expect(certificate.extension(OID.subjectAltName)?.critical).toBe(true)
  })

  test.each([
    ['a serial of 19 bytes', { serial: new Uint8Array(19).fill(1) }],
    ['a serial of 21 bytes', { serial: new Uint8Array(21).fill(1) }],
    ['a serial with the top bit', { serial: new Uint8Array(20).fill(0x80) }],
    ['a serial of zeros', { serial: new Uint8Array(20) }],
    ['fractions of a second', { notBefore: new Date(NOW.getTime() + 1) }],
    ['an end before its start', { notAfter: later(-1) }],
    ['an end at its start', { notAfter: NOW }],
    ['an end after its issuer', { notAfter: later(86_401) }],
    ['a start before its issuer', { notBefore: later(-3601) }],
    ['an empty name', { subjectAltName: { type: 'email', value: '' } }],
    ['an email that is not ASCII', { subjectAltName: { type: 'email', value: 'ü@example.com' } }],
    ['a line break in a name', { subjectAltName: { type: 'uri', value: 'https://a/\nb' } }],
    ['a NUL in a name', { subjectAltName: { type: 'otherName', oid: '1.2.3', value: 'a\0b' } }],
    ['a dns name', { subjectAltName: { type: 'dns', value: 'example.com' } }],
    ['an ip name', { subjectAltName: { type: 'ip', value: '10.0.0.1' } }],
    ['an otherName without a type', { subjectAltName: { type: 'otherName', value: 'x' } }],
    ['no issuer extension', { fulcioExtensions: new Uint8Array(0) }],
    [
      'a foreign extension',
      { fulcioExtensions: sequence(objectIdentifier('1.2.3.4'), octetString(new Uint8Array(1))) },
    ],
    [
      'a second key usage',
      { fulcioExtensions: sequence(objectIdentifier(OID.keyUsage), octetString(bitString(Uint8Array.of(4), 2))) },
    ],
    [
      'basic constraints',
      { fulcioExtensions: sequence(objectIdentifier(OID.basicConstraints), octetString(sequence(boolean(true)))) },
    ],
    [
      'a critical fulcio extension',
      {
        fulcioExtensions: sequence(objectIdentifier(`${OID.fulcio}.8`), boolean(true), octetString(new Uint8Array(1))),
      },
    ],
    [
      'the otherName arc as extension',
      { fulcioExtensions: sequence(objectIdentifier(`${OID.fulcio}.7`), octetString(new Uint8Array(1))) },
    ],
    [
      'a poison of its own',
      { fulcioExtensions: sequence(objectIdentifier(OID.ctPoison), boolean(true), octetString(Uint8Array.of(5, 0))) },
    ],
    [
      'extensions out of order',
      {
        fulcioExtensions: concatBytes(
          sequence(objectIdentifier(`${OID.fulcio}.24`), octetString(new Uint8Array(1))),
          sequence(objectIdentifier(`${OID.fulcio}.8`), octetString(new Uint8Array(1))),
        ),
      },
    ],
    ['bytes that are no extension', { fulcioExtensions: Uint8Array.of(1, 2, 3) }],
  ] as readonly [string, Partial<CertificateProfile>][])('is refused with %s', (_, changes) => {
    expect(['profile', 'malformed_certificate']).toContain(codeOf(() => prepareCertificate(wanted(changes))))
  })

  test.each([
    ['another serial', { serial: new Uint8Array(20).fill(0x11) }],
    ['another name', { subjectAltName: { type: 'uri', value: 'https://other.example' } }],
    ['another end', { notAfter: later(601) }],
    ['another key', { publicKey: parseSpki(spkiOf(keys.p384.publicKey)) }],
  ] as readonly [string, Partial<CertificateProfile>][])('does not pass for one with %s', (_, changes) => {
    const profile = wanted()
    const certificate = parseCertificate(issue(profile))
    expect(codeOf(() => lintIssuedLeaf(certificate, issuers.p256, { ...profile, ...changes }))).toBe('profile')
  })

  test('does not pass with the signature of another key or the algorithm of another issuer', () => {
    const profile = wanted()
    const tbs = prepareCertificate(profile).certificateTbs([SCT])
    const forged = assembleCertificate(tbs, 'ecdsa-sha256', sign('sha256', tbs, keys.leaf.privateKey))
    expect(codeOf(() => lintIssuedLeaf(parseCertificate(forged), issuers.p256, profile))).toBe('bad_signature')
    const mixed = assembleCertificate(tbs, 'ecdsa-sha384', sign('sha384', tbs, keys.p256.privateKey))
    expect(codeOf(() => parseCertificate(mixed))).toBe('malformed_certificate')
    expect(
      verifyCertificateSignature(
        parseCertificate(issue(profile)),
        parseSpki(spkiOf(generateKeyPairSync('ed25519').publicKey)),
      ),
    ).toBe(false)
  })

  test('with one byte changed is refused, or is not signed', () => {
    const profile = wanted()
    const der = issue(profile)
    const original = parseCertificate(der)
    fc.assert(
      fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const mutated = der.map((octet, index) => (index === at ? octet ^ change : octet))
        expect(codeOf(() => lintIssuedLeaf(parseCertificate(mutated), issuers.p256, profile))).not.toBe('accepted')
      }),
      { numRuns: 400 },
    )
    expect(original.der).toEqual(der)
  })
})

describe('makeIssuer', () => {
  const usages = oracle.KeyUsageFlags
  const ski = (key: webcrypto.CryptoKey): Promise<oracle.Extension> => oracle.SubjectKeyIdentifierExtension.create(key)
  test.each([
    [
      'no CA',
      async (key: webcrypto.CryptoKey) => [
        new oracle.BasicConstraintsExtension(false),
        new oracle.KeyUsagesExtension(usages.keyCertSign),
        await ski(key),
      ],
    ],
    [
      'no basic constraints',
      async (key: webcrypto.CryptoKey) => [new oracle.KeyUsagesExtension(usages.keyCertSign), await ski(key)],
    ],
    [
      'no certificate signing',
      async (key: webcrypto.CryptoKey) => [
        new oracle.BasicConstraintsExtension(true),
        new oracle.KeyUsagesExtension(usages.cRLSign),
        await ski(key),
      ],
    ],
    ['no key usage', async (key: webcrypto.CryptoKey) => [new oracle.BasicConstraintsExtension(true), await ski(key)]],
    [
      'no key identifier',
      async () => [new oracle.BasicConstraintsExtension(true), new oracle.KeyUsagesExtension(usages.keyCertSign)],
    ],
    [
      'an EKU without code signing',
      async (key: webcrypto.CryptoKey) => [
        new oracle.BasicConstraintsExtension(true),
        new oracle.KeyUsagesExtension(usages.keyCertSign),
        new oracle.ExtendedKeyUsageExtension([OID.timeStamping]),
        await ski(key),
      ],
    ],
  ])('refuses a certificate with %s', async (_, extensions) => {
    const der = await caCertificate(keys.p256, extensions)
    expect(codeOf(() => makeIssuer(der))).toBe('profile')
  })
  test('refuses a signing certificate as issuer', () =>
    expect(codeOf(() => makeIssuer(issue(wanted())))).toBe('profile'))
})

describe('parseCertificate', () => {
  const spki = spkiOf(keys.leaf.publicKey)
  const algorithm = sequence(objectIdentifier(OID.ecdsaWithSha256))
  const fields = (extensions: Uint8Array[], version: Uint8Array[] = [contextConstructed(0, integer(2))]): Uint8Array =>
    sequence(
      ...version,
      integer(5),
      algorithm,
      sequence(),
      sequence(time(NOW), time(later(1))),
      sequence(),
      spki,
      ...extensions,
    )
  const extension = (oid: string, value: Uint8Array): Uint8Array => sequence(objectIdentifier(oid), octetString(value))
  const list = (...extensions: Uint8Array[]): Uint8Array[] => [contextConstructed(3, sequence(...extensions))]

  test('reads version 1 and every kind of name', () => {
    expect(parseTbsCertificate(fields([], [])).version).toBe(1)
    const names = sequence(
      contextPrimitive(2, Buffer.from('example.com')),
      contextPrimitive(7, Uint8Array.of(10, 0, 0, 1)),
      contextPrimitive(7, Uint8Array.from([0x20, 1, 0xd, 0xb8, ...new Uint8Array(11), 1])),
      contextConstructed(4, sequence()),
      contextConstructed(0, objectIdentifier('1.2.3'), contextConstructed(0, Uint8Array.of(0x1e, 2, 0, 0x41))),
    )
    expect(parseTbsCertificate(fields(list(extension(OID.subjectAltName, names)))).subjectAltNames).toEqual([
      { type: 'dns', value: 'example.com' },
      { type: 'ip', value: '10.0.0.1' },
      { type: 'ip', value: '2001:db8:0:0:0:0:0:1' },
      { type: 'otherName', oid: '1.2.3', value: 'A' },
    ])
  })

  test.each([
    ['an extension twice', fields(list(extension('1.2.3', spki), extension('1.2.3', spki)))],
    ['an empty list of extensions', fields(list())],
    ['extensions in version 1', fields(list(extension('1.2.3', spki)), [])],
    ['version 1 written out', fields([], [contextConstructed(0, integer(0))])],
    ['version 4', fields([], [contextConstructed(0, integer(3))])],
    [
      'critical FALSE written out',
      fields(list(sequence(objectIdentifier('1.2.3'), boolean(false), octetString(spki)))),
    ],
    ['CA FALSE written out', fields(list(extension(OID.basicConstraints, sequence(boolean(false)))))],
    ['an empty SAN', fields(list(extension(OID.subjectAltName, sequence())))],
    [
      'an email that is not ASCII',
      fields(list(extension(OID.subjectAltName, sequence(contextPrimitive(1, Uint8Array.of(0xff)))))),
    ],
    ['an ip of 5 bytes', fields(list(extension(OID.subjectAltName, sequence(contextPrimitive(7, new Uint8Array(5))))))],
    ['an empty EKU', fields(list(extension(OID.extKeyUsage, sequence())))],
    [
      'trailing bytes in key usage',
      fields(list(extension(OID.keyUsage, Uint8Array.of(...bitString(Uint8Array.of(0x80), 7), 0)))),
    ],
    ['something behind the extensions', fields([...list(extension('1.2.3', spki)), integer(1)])],
  ])('refuses %s', (_, tbs) => {
    expect(codeOf(() => parseTbsCertificate(tbs))).toBe('malformed_certificate')
  })

  test('withoutExtension drops the field with its last extension and leaves others alone', () => {
    const one = fields(list(extension('1.2.3', spki)))
    expect(withoutExtension(one, '1.2.3')).toEqual(fields([]))
    expect(withoutExtension(one, '1.2.4')).toEqual(one)
    expect(codeOf(() => withoutExtension(one.subarray(0, 20), '1.2.3'))).toBe('malformed_certificate')
  })
})

describe('names', () => {
  test('round trip and read the same to Node', () => {
    const name = [
      { type: 'O', value: 'Chancery & Söhne' },
      { type: 'C', value: 'CH' },
      { type: 'CN', value: 'x' },
      { type: '1.2.3.4', value: 'y' },
    ]
    expect(parseName(encodeName(name))).toEqual(name)
    expect(parseName(issuers.p256.certificate.subjectDer)).toEqual([
      { type: 'O', value: 'Chancery' },
      { type: 'CN', value: 'issuing' },
    ])
  })
  test.each([
    [{ type: 'NOPE', value: 'x' }, 'profile'],
    [{ type: 'CN', value: '' }, 'profile'],
    [{ type: 'C', value: 'ü' }, 'malformed_der'],
    [{ type: 'CN', value: '\udc00' }, 'malformed_der'],
  ] as const)('refuse %j', (attribute, code) => expect(codeOf(() => encodeName([attribute]))).toBe(code))
})

describe('scts', () => {
  test('verify over what node:crypto signs, and round trip', () => {
    const entry = prepareCertificate(wanted()).sctInput()
    const signature = sign(
      'sha256',
      sctSignatureInput(entry, NOW.getTime(), new Uint8Array(0)),
      createPrivateKey(keys.p256.privateKey.export({ format: 'pem', type: 'pkcs8' })),
    )
    const sct = {
      logId: new Uint8Array(32).fill(1),
      timestampMs: NOW.getTime(),
      extensions: Uint8Array.of(0, 0, 5, 0, 0, 0, 0, 9),
      signatureDer: Uint8Array.from(signature),
    }
    expect(parseSct(serializeSct(sct))).toEqual(sct)
    expect(
      verify(
        'sha256',
        sctSignatureInput(entry, sct.timestampMs, new Uint8Array(0)),
        keys.p256.publicKey,
        parseSct(serializeSct(sct)).signatureDer,
      ),
    ).toBe(true)
    const other = sctSignatureInput({ ...entry, issuerKeyHash: new Uint8Array(32) }, sct.timestampMs, new Uint8Array(0))
    expect(verify('sha256', other, keys.p256.publicKey, signature)).toBe(false)
  })
  // Written down from the structures of RFC 6962 §3.2 to §3.5, not computed by this code.
  const issuerKeyHash = new Uint8Array(32).fill(0xcc)
  const precert = { type: 'precert', issuerKeyHash, tbsDer: Uint8Array.of(0x30, 0) } as const
  const x509 = { type: 'x509', certificateDer: Uint8Array.of(0x30, 1, 5) } as const
  const extensions = Uint8Array.of(1, 2)
  test.each([
    [
      'precertificate',
      sctSignatureInput(precert, 1, new Uint8Array(0)),
      `0000 0000000000000001 0001 ${'cc'.repeat(32)} 000002 3000 0000`,
    ],
    ['certificate', sctSignatureInput(x509, 2 ** 40, extensions), '0000 0000010000000000 0000 000003 300105 0002 0102'],
    [
      'precertificate leaf',
      merkleTreeLeaf(precert, 1, extensions),
      `0000 0000000000000001 0001 ${'cc'.repeat(32)} 000002 3000 0002 0102`,
    ],
    ['certificate leaf', merkleTreeLeaf(x509, 1, new Uint8Array(0)), '0000 0000000000000001 0000 000003 300105 0000'],
    [
      'tree head',
      treeHeadSignatureInput(5, 6, new Uint8Array(32).fill(0xdd)),
      `0001 0000000000000006 0000000000000005 ${'dd'.repeat(32)}`,
    ],
    ['sct list', encodeSctList([Uint8Array.of(9)]), '0405 0003 0001 09'],
    [
      'sct',
      serializeSct({ logId: issuerKeyHash, timestampMs: 1, extensions, signatureDer: Uint8Array.of(8) }),
      `00 ${'cc'.repeat(32)} 0000000000000001 0002 0102 0403 0001 08`,
    ],
  ])('a %s is these bytes', (_, bytes, expected) => {
    expect(Buffer.from(bytes).toString('hex')).toBe(expected.replaceAll(' ', ''))
  })

  const list = encodeSctList([SCT])
  test.each([
    ['version 2', () => parseSct(SCT.map((octet, at) => (at === 0 ? 1 : octet)))],
    ['another hash', () => parseSct(SCT.map((octet, at) => (at === 43 ? 5 : octet)))],
    ['an RSA signature', () => parseSct(SCT.map((octet, at) => (at === 44 ? 1 : octet)))],
    ['a time over 2^53', () => parseSct(SCT.map((octet, at) => (at === 33 ? 0xff : octet)))],
    ['trailing bytes', () => parseSct(Uint8Array.of(...SCT, 0))],
    ['a cut off SCT', () => parseSct(SCT.subarray(0, SCT.length - 1))],
    ['a log id of 31 bytes', () => serializeSct({ ...parseSct(SCT), logId: new Uint8Array(31) })],
    ['a negative time', () => serializeSct({ ...parseSct(SCT), timestampMs: -1 })],
    ['an empty list', () => encodeSctList([])],
    ['an empty list to read', () => decodeSctList(octetString(Uint8Array.of(0, 0)))],
    ['an empty SCT in a list', () => decodeSctList(octetString(Uint8Array.of(0, 2, 0, 0)))],
    ['a list with bytes behind it', () => decodeSctList(octetString(Uint8Array.of(...list.subarray(2), 0)))],
    ['a list that is no octet string', () => decodeSctList(list.subarray(2))],
  ])('refuse %s', (_, run) => expect(codeOf(run)).toBe('malformed_sct'))
})
