import { createHash } from 'node:crypto'
import { parseCertificate, parseSpki, type ParsedCertificate, verifyCertificateSignature } from '#x509'
import type { ReleaseRule } from './linter.ts'
import type { Release } from './release.ts'
import {
  type CertificateAuthority,
  hostOfOrigin,
  isPublished,
  TRUSTED_ROOT_MEDIA_TYPE,
  type TransparencyLogInstance,
} from './trusted-root.ts'

/** Rules on trusted_root.json; each comment names the client that would fail. */
export const trustedRootRules = {
  /** sigstore-go and sigstore-python refuse every other media type. */
  *'trusted-root-media-type'({ trustedRoot }) {
    const mediaType: string = trustedRoot.mediaType
    if (mediaType !== TRUSTED_ROOT_MEDIA_TYPE) yield `mediaType is ${mediaType}`
  },

  /** Go's protojson and sigstore-python fail on unknown fields; cosign ≤ 2.5.0 does not know `operator`. */
  *'trusted-root-fields'({ trustedRoot }) {
    const extra = (where: string, object: object, known: readonly string[]) =>
      Object.keys(object)
        .filter((key) => !known.includes(key))
        .map((key) => `${where}.${key} is not known to every client`)
    yield* extra('trusted root', trustedRoot, ['mediaType', ...LISTS])
    for (const [where, log] of logs(trustedRoot)) {
      yield* extra(where, log, ['baseUrl', 'hashAlgorithm', 'publicKey', 'logId'])
      yield* extra(`${where}.publicKey`, log.publicKey, ['rawBytes', 'keyDetails', 'validFor'])
    }
    for (const [where, chain] of chains(trustedRoot)) {
      yield* extra(where, chain, ['subject', 'uri', 'certChain', 'validFor'])
    }
  },

  /** sigstore-python needs the keys of the lists, indexes tlogs[0] and errors on empty ctlogs. */
  *'trusted-root-lists'({ trustedRoot }) {
    for (const list of LISTS) if (!Array.isArray(trustedRoot[list])) yield `${list} is missing`
    for (const list of ['tlogs', 'certificateAuthorities', 'ctlogs'] as const) {
      if (trustedRoot[list].length === 0) yield `${list} is empty`
    }
    // sigstore-go verifies against at most 32.
    if (trustedRoot.timestampAuthorities.length > 32) yield 'more than 32 timestamp authorities'
  },

  /** sigstore-go refuses a log without hash algorithm. */
  *'log-hash-algorithm'({ trustedRoot }) {
    for (const [where, log] of logs(trustedRoot)) {
      const hashAlgorithm: string = log.hashAlgorithm
      if (hashAlgorithm !== 'SHA2_256') yield `${where}: ${hashAlgorithm}`
    }
  },

  /** ECDSA P-256 in DER is the one log key that all verify: sigstore-js no RSA or P-384, policy-controller only ECDSA. */
  *'log-key-p256'({ trustedRoot }) {
    for (const [where, log] of logs(trustedRoot)) {
      const keyDetails: string = log.publicKey.keyDetails
      if (keyDetails !== 'PKIX_ECDSA_P256_SHA_256') yield `${where}: ${keyDetails}`
      const der = fromBase64(log.publicKey.rawBytes)
      if (der[0] !== 0x30) yield `${where}: rawBytes is not DER`
      else {
        const key = parseSpki(der)
        if (key.kind !== 'ecdsa' || key.curve !== 'P-256') yield `${where}: the key is not ECDSA P-256`
      }
    }
  },

  /** The id is recomputed by sigstore-js and compared with entries and SCTs by all. */
  *'log-id'({ trustedRoot }) {
    for (const [where, log] of logs(trustedRoot)) {
      const expected = createHash('sha256').update(fromBase64(log.publicKey.rawBytes)).digest('base64')
      if (log.logId.keyId !== expected) yield `${where}: logId is not SHA-256 of the key`
    }
  },

  /** sigstore-go keys logs by id, so the last of two with one key silently wins; v1, v2 and CT must not share one. */
  *'log-key-unique'({ trustedRoot }) {
    const seen = new Map<string, string>()
    for (const [where, log] of logs(trustedRoot)) {
      const other = seen.get(log.publicKey.rawBytes)
      if (other !== undefined) yield `${where} has the key of ${other}`
      seen.set(log.publicKey.rawBytes, where)
    }
  },

  /** sigstore-go takes the host of baseUrl for the note's name, sigstore-js wants the name in it, java the exact host. */
  *'tlog-base-url'({ trustedRoot, inventory }) {
    for (const [at, log] of trustedRoot.tlogs.entries()) {
      const url = new URL(log.baseUrl)
      if (!/^https?:$/.test(url.protocol)) yield `tlogs[${at}]: scheme ${url.protocol}`
      if (log.baseUrl !== `${url.protocol}//${url.hostname}`) yield `tlogs[${at}]: ${log.baseUrl} is more than a host`
      const item = inventory.items.find(
        ({ kind, der }) => kind.startsWith('rekor') && der.some((key) => toBase64(key) === log.publicKey.rawBytes),
      )
      const origin = item?.origin
      if (origin === undefined) yield `tlogs[${at}]: no item with its key has an origin`
      else if (hostOfOrigin(origin) !== url.hostname) yield `tlogs[${at}]: ${log.baseUrl} is not the origin "${origin}"`
    }
  },

  /** sigstore-go tells v1 from v2 by an origin that ends in " - <tree id>". */
  *'tlog-origin-form'({ inventory }) {
    for (const { id, kind, origin } of inventory.items) {
      if (kind === 'rekor-v1' && !/^[^\s+/:]+ - [1-9]\d*$/.test(origin ?? '')) yield `${id}: "${origin}" has no tree id`
      if (kind === 'rekor-v2' && !/^[^\s+/:]+$/.test(origin ?? '')) yield `${id}: "${origin}" is not a bare host name`
    }
  },

  /** One Rekor v2 log a host: the name on the checkpoint is all that sigstore-go finds a log by. */
  *'rekor-v2-host-unique'({ inventory }) {
    const rekor = inventory.items.filter((item) => item.kind.startsWith('rekor') && isPublished(item))
    for (const item of rekor.filter(({ kind }) => kind === 'rekor-v2')) {
      const host = hostOfOrigin(item.origin ?? '')
      if (rekor.some((other) => other !== item && hostOfOrigin(other.origin ?? '') === host))
        yield `${item.id}: ${host}`
    }
  },

  /** sigstore-python needs both strings, policy-controller refuses empty ones. */
  *'authority-subject'({ trustedRoot }) {
    for (const [where, { subject }] of chains(trustedRoot)) {
      if (!subject.organization) yield `${where}: no organization in the first certificate`
      if (!subject.commonName) yield `${where}: no common name in the first certificate`
    }
  },

  /** sigstore-js builds the chain in the given order and needs a self-signed end; RHTAS once shipped PEM in rawBytes. */
  *'authority-chain'({ trustedRoot }) {
    for (const [where, authority] of chains(trustedRoot)) {
      const chain = certificates(authority)
      if (chain.length < 2) yield `${where}: fewer than two certificates`
      for (const [at, certificate] of chain.entries()) {
        const issuer = chain[at + 1] ?? certificate
        if (!Buffer.from(certificate.issuerDer).equals(issuer.subjectDer)) {
          yield `${where}[${at}] was not issued by the certificate after it${chain[at + 1] ? '' : ', and is no root'}`
        } else if (!verifyCertificateSignature(certificate, issuer.publicKey)) {
          yield `${where}[${at}] is not signed by its issuer`
        }
        if (at > 0 && certificate.basicConstraints?.ca !== true) yield `${where}[${at}] is not a CA`
        if (at > 0 && certificate.keyUsage?.has('keyCertSign') !== true)
          yield `${where}[${at}] may not sign certificates`
      }
    }
  },

  /** The chain must be valid when it signs: a window that begins before every certificate, or after one has ended, cannot. */
  *'authority-validity'({ trustedRoot, inventory }, { now }) {
    const ended = new Set(
      inventory.items.filter(({ state }) => state === 'retired').flatMap(({ der }) => der.map(toBase64)),
    )
    for (const [where, authority] of chains(trustedRoot)) {
      for (const [at, certificate] of certificates(authority).entries()) {
        const isEnded = ended.has(authority.certChain.certificates[at]?.rawBytes ?? '')
        if (certificate.notAfter < now && !isEnded)
          yield `${where}[${at}] expired at ${certificate.notAfter.toISOString()}`
      }
    }
  },

  /** sigstore-python refuses Ed25519 CAs; sigstore-js knows ECDSA alone where a certificate's key signs tokens. */
  *'authority-key'({ trustedRoot }) {
    for (const [where, authority] of chains(trustedRoot)) {
      for (const [at, { publicKey, basicConstraints }] of certificates(authority).entries()) {
        const isRsaAuthority = publicKey.kind === 'rsa' && RSA_BITS.has(publicKey.bits) && basicConstraints?.ca === true
        const isEcdsa = publicKey.kind === 'ecdsa' && (publicKey.curve === 'P-256' || publicKey.curve === 'P-384')
        if (!isRsaAuthority && !isEcdsa)
          yield `${where}[${at}]: the key is not ECDSA P-256 or P-384, or an authority's RSA`
      }
    }
  },

  /** sigstore-go validates with code signing as required usage all the way up. */
  *'issuing-ca'({ trustedRoot }) {
    for (const [at, authority] of trustedRoot.certificateAuthorities.entries()) {
      const [issuing] = certificates(authority)
      const where = `certificateAuthorities[${at}]`
      if (issuing?.basicConstraints?.ca !== true) yield `${where}: the first certificate is not a CA`
      if (issuing?.extKeyUsage && !issuing.extKeyUsage.includes(CODE_SIGNING)) {
        yield `${where}: the issuing CA may not issue for code signing`
      }
    }
  },

  /** The leaf stands first (no client relies on the token's own); OpenSSL wants the critical, sole usage. */
  *'timestamp-leaf'({ trustedRoot }) {
    for (const [at, authority] of trustedRoot.timestampAuthorities.entries()) {
      const [leaf] = certificates(authority)
      const where = `timestampAuthorities[${at}]`
      if (!leaf || leaf.basicConstraints?.ca === true) yield `${where}: the first certificate is not the leaf`
      if (!leaf) continue
      if (leaf.extKeyUsage?.join() !== TIME_STAMPING || leaf.extension(EKU)?.critical !== true) {
        yield `${where}: the leaf's extended key usage is not critical timeStamping alone`
      }
      if (
        [...(leaf.keyUsage ?? ['none'])].some((usage) => usage !== 'digitalSignature' && usage !== 'nonRepudiation')
      ) {
        yield `${where}: the leaf's key usage is wider than digitalSignature`
      }
    }
  },

  /** sigstore-go needs a start; sigstore-python hides what starts in its future; protobuf wants RFC 3339. */
  *window({ trustedRoot }, { now }) {
    const windows = [
      ...logs(trustedRoot).map(([where, log]) => [where, log.publicKey.validFor] as const),
      ...chains(trustedRoot).map(([where, chain]) => [where, chain.validFor] as const),
    ]
    for (const [where, { start, end }] of windows) {
      if (!RFC3339_SECONDS.test(start)) yield `${where}: start is "${start}"`
      else if (new Date(start) > now) yield `${where}: starts in the future, at ${start}`
      if (end !== undefined && (!RFC3339_SECONDS.test(end) || end <= start)) yield `${where}: ends at "${end}"`
    }
  },

  /** What a retired key signed is accepted up to its end, so it must have one (SET, SCT and TSA times are checked). */
  *'retired-has-end'({ inventory }) {
    for (const { id, state, window } of inventory.items) {
      if (state === 'retired' && window.end === undefined) yield `${id} is retired without an end`
    }
  },

  /** Which one an emergency puts into service must not be a question; more of them are only more to guard. */
  *'one-standby'({ inventory }) {
    const standby = inventory.items.filter(({ state }) => state === 'standby')
    for (const [kind, items] of Map.groupBy(standby, (item) => item.kind)) {
      if (items.length > 1) yield `${kind}: ${items.map(({ id }) => id).join(' and ')} are standby`
    }
    for (const { id, window } of standby) {
      // What it signs in an emergency must fall into the window that clients have by then.
      if (window.end !== undefined) yield `${id} is standby and has an end`
    }
  },

  /** Old signatures stop verifying when their key leaves; only a revocation, said as such, may do that. */
  *'no-silent-removal'({ inventory }, { previous }) {
    for (const item of previous?.inventory.items.filter(isPublished) ?? []) {
      const same = inventory.items.find(
        ({ kind, der }) =>
          kind === item.kind &&
          der[0] !== undefined &&
          item.der[0] !== undefined &&
          Buffer.from(der[0]).equals(item.der[0]),
      )
      if (item.kind !== 'oidc-issuer' && !same) yield `${item.id} was published and is gone; mark it retired or revoked`
      if (same?.state === 'staged') yield `${item.id} was published and is staged again`
    }
  },
} satisfies Record<string, ReleaseRule>

const LISTS = ['tlogs', 'certificateAuthorities', 'ctlogs', 'timestampAuthorities'] as const
const RFC3339_SECONDS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/
const RSA_BITS: ReadonlySet<number> = new Set([2048, 3072, 4096])
const CODE_SIGNING = '1.3.6.1.5.5.7.3.3'
const TIME_STAMPING = '1.3.6.1.5.5.7.3.8'
const EKU = '2.5.29.37'

function logs(trustedRoot: Release['trustedRoot']): (readonly [string, TransparencyLogInstance])[] {
  const named = (list: 'tlogs' | 'ctlogs') => trustedRoot[list].map((log, at) => [`${list}[${at}]`, log] as const)
  return [...named('tlogs'), ...named('ctlogs')]
}

function chains(trustedRoot: Release['trustedRoot']): (readonly [string, CertificateAuthority])[] {
  const named = (list: 'certificateAuthorities' | 'timestampAuthorities') =>
    trustedRoot[list].map((chain, at) => [`${list}[${at}]`, chain] as const)
  return [...named('certificateAuthorities'), ...named('timestampAuthorities')]
}

function certificates({ certChain }: CertificateAuthority): ParsedCertificate[] {
  return certChain.certificates.map(({ rawBytes }) => parseCertificate(fromBase64(rawBytes)))
}

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'))
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
