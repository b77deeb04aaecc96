/** The process of `probe.ts`: reads a request on standard input, loads the module, writes what it found. */
import { createPublicKey } from 'node:crypto'
import { randomBytes } from 'node:crypto'
import pkcs11js from 'pkcs11js'
import { destroyKeyPair, generateKeyPair } from './key-generation.ts'
import { KEY_KINDS, KIND_RULES, releasedSignature, signatureHolds, tokenInput } from './key-kinds.ts'
import { loadModule } from './module-loader.ts'
import { calling, CKF, CKM, CKU, findObjects, isPinFailure, unpadded, type Cryptoki, type Handle } from './pkcs11.ts'
import { parseTokenUri } from './pkcs11-uri.ts'
import type { Probed, ProbedMechanism, ProbedToken, ProbedTrial, ProbeRequest } from './probe.ts'
import { profileOf, QUIRKS, type Profile, type Quirk } from './quirks.ts'
import { HsmError, type KeyKind } from './signing.ts'
import { pinWarnings, tokenLimits } from './token-details.ts'
import { findToken, readFacts, readLibrary, readPin } from './token.ts'

const SIGNATURES = 10

function probe(request: ProbeRequest): Probed {
  const module = loadModule(request.module)
  const info = calling('C_GetInfo', () => module.C_GetInfo())
  const { libraryDescription, libraryManufacturer } = readLibrary(module)
  const library = {
    path: request.module.path,
    description: libraryDescription,
    manufacturer: libraryManufacturer,
    version: versionText(info.libraryVersion),
    cryptoki: versionText(info.cryptokiVersion),
  }
  if (request.uri === undefined && request.pinFile !== undefined) {
    throw new HsmError('refused', 'no_uri', 'a PIN is given to one token: name it by its URI')
  }
  const slots =
    request.uri === undefined
      ? calling('C_GetSlotList', () => module.C_GetSlotList(true)).map((slot) => Buffer.from(slot))
      : [findToken(module, parseTokenUri(request.uri)).slot]
  return { library, tokens: slots.map((slot) => probeToken(module, slot, request)) }
}

function probeToken(module: Cryptoki, slot: Handle, request: ProbeRequest): ProbedToken {
  const facts = readFacts(module, slot)
  const told = calling('C_GetTokenInfo', () => module.C_GetTokenInfo(slot))
  const profile = profileOf({ ...facts, ...readLibrary(module) })
  const mechanisms = readMechanisms(module, slot)
  const seen = new Set<Quirk>()
  if (!readOnlySessionsWork(module, slot)) seen.add('read_write_sessions_only')
  if (sharesSerial(module, facts.serial)) seen.add('serial_not_unique')
  const inside = request.pinFile === undefined ? undefined : lookInside(module, slot, profile, request)
  for (const { unproven } of inside?.trials ?? []) {
    if (unproven.includes('LOCAL')) seen.add('origin_unproven')
    if (unproven.some((name) => name !== 'LOCAL')) seen.add('attributes_not_taken')
  }
  const { label, serial, model, manufacturer } = facts
  return {
    label,
    serial,
    model,
    manufacturer,
    hardwareVersion: versionText(told.hardwareVersion),
    firmwareVersion: versionText(told.firmwareVersion),
    flags: pinWarnings(told.flags),
    software: profile.software,
    profile: { name: profile.name, tested: profile.tested },
    quirks: [...new Set([...profile.quirks, ...seen])].map((quirk) => ({
      quirk,
      meaning: QUIRKS[quirk],
      seen: seen.has(quirk),
    })),
    limits: tokenLimits(told),
    kinds: KEY_KINDS.map((kind) => ({ kind, offered: offers(mechanisms, kind) })),
    mechanisms,
    ...(inside === undefined ? {} : { objects: inside.objects }),
    trials: inside?.trials ?? [],
  }
}

function readMechanisms(module: Cryptoki, slot: Handle): ProbedMechanism[] {
  const names = new Map(
    Object.entries(pkcs11js as unknown as Record<string, unknown>).flatMap(([name, value]) =>
      name.startsWith('CKM_') && typeof value === 'number' ? [[value, name] as const] : [],
    ),
  )
  // Not among pkcs11js's constants.
  names.set(CKM.EDDSA, 'CKM_EDDSA').set(CKM.EC_EDWARDS_KEY_PAIR_GEN, 'CKM_EC_EDWARDS_KEY_PAIR_GEN')
  return calling('C_GetMechanismList', () => module.C_GetMechanismList(slot)).map((number) => {
    const name = names.get(number) ?? `0x${number.toString(16)}`
    try {
      const { minKeySize, maxKeySize } = module.C_GetMechanismInfo(slot, number)
      return { name, number, minKeySize, maxKeySize }
    } catch {
      // It is listed and cannot be described; sizes are then not told.
      return { name, number, minKeySize: 0, maxKeySize: 0 }
    }
  })
}

const BITS: Readonly<Record<KeyKind, number>> = {
  'P-256': 256,
  'P-384': 384,
  'rsa-2048': 2048,
  'rsa-3072': 3072,
  'rsa-4096': 4096,
  ed25519: 255,
}

/** Both mechanisms are there, and the sizes of RSA reach so far; for curves modules tell sizes in bits or not at all. */
function offers(mechanisms: readonly ProbedMechanism[], kind: KeyKind): boolean {
  const { generation, signing } = KIND_RULES[kind]
  const generates = mechanisms.find(({ number }) => number === generation.mechanism)
  const signs = mechanisms.some(({ number }) => number === signing.mechanism)
  if (generates === undefined || !signs) return false
  const { maxKeySize } = generates
  return maxKeySize === 0 || kind === 'ed25519' || maxKeySize >= BITS[kind]
}

function readOnlySessionsWork(module: Cryptoki, slot: Handle): boolean {
  try {
    module.C_CloseSession(module.C_OpenSession(slot, CKF.SERIAL_SESSION))
    return true
  } catch {
    return false
  }
}

function sharesSerial(module: Cryptoki, serial: string): boolean {
  if (/^0*$/.test(serial)) return true
  const serials = module.C_GetSlotList(true).flatMap((slot) => {
    try {
      return [unpadded(module.C_GetTokenInfo(slot).serialNumber)]
    } catch {
      return []
    }
  })
  return serials.filter((other) => other === serial).length > 1
}

function lookInside(
  module: Cryptoki,
  slot: Handle,
  profile: Profile,
  { pinFile = '', trial = [] }: ProbeRequest,
): { objects: number; trials: ProbedTrial[] } {
  const { flags } = module.C_GetTokenInfo(slot)
  if ((flags & (CKF.USER_PIN_LOCKED | CKF.USER_PIN_FINAL_TRY | CKF.USER_PIN_COUNT_LOW)) !== 0) {
    throw new HsmError('latched', 'pin_at_risk', 'the token remembers a wrong PIN; no login is tried by a probe')
  }
  const session = calling('C_OpenSession', () => module.C_OpenSession(slot, CKF.SERIAL_SESSION | CKF.RW_SESSION))
  try {
    calling('C_Login', () => module.C_Login(session, CKU.USER, readPin(pinFile)))
  } catch (error) {
    if (isPinFailure(error)) {
      throw new HsmError('latched', 'pin_refused', 'the token refused the PIN; it was tried once', { cause: error })
    }
    throw error
  }
  const objects = findObjects(module, session, [], 10_000).length
  return { objects, trials: trial.map((kind) => tryKind(module, session, profile, kind)) }
}

function tryKind(module: Cryptoki, session: Handle, profile: Profile, kind: KeyKind): ProbedTrial {
  const label = `chancery-probe-${randomBytes(6).toString('hex')}`
  try {
    const startedMs = performance.now()
    const made = generateKeyPair(module, session, { label, kind }, profile)
    const generateMs = performance.now() - startedMs
    try {
      const { signing, signatureBytes } = KIND_RULES[kind]
      const verifier = createPublicKey({ key: Buffer.from(made.spkiDer), format: 'der', type: 'spki' })
      const times = Array.from({ length: SIGNATURES }, (_, i) => {
        const message = Buffer.from(`${label} ${i}`)
        const input = tokenInput(kind, message)
        const beginMs = performance.now()
        calling('C_SignInit', () => module.C_SignInit(session, signing, made.handle))
        const raw = calling('C_Sign', () => module.C_Sign(session, input, Buffer.alloc(signatureBytes)))
        const tookMs = performance.now() - beginMs
        if (!signatureHolds(kind, message, verifier, releasedSignature(kind, raw))) {
          throw new HsmError('unavailable', 'signature_did_not_verify', 'a signature did not verify')
        }
        return tookMs
      }).toSorted((a, b) => a - b)
      return { kind, fault: '', generateMs, signMs: times[SIGNATURES / 2] ?? 0, unproven: made.unproven }
    } finally {
      destroyKeyPair(module, session, made.id)
    }
  } catch (error) {
    return { kind, fault: error instanceof Error ? error.message : 'failed', generateMs: 0, signMs: 0, unproven: [] }
  }
}

function versionText({ major, minor }: { major: number; minor: number }): string {
  return `${major}.${minor}`
}

async function readRequest(): Promise<ProbeRequest> {
  let text = ''
  for await (const chunk of process.stdin.setEncoding('utf8')) text += String(chunk)
  return JSON.parse(text) as ProbeRequest // our own parent's
}

function errorAnswer(error: unknown): object {
  if (error instanceof HsmError) return { code: error.code, reason: error.reason, message: error.message }
  return { code: 'unavailable', reason: 'module_failed', message: error instanceof Error ? error.message : 'failed' }
}

let answer: object
try {
  answer = probe(await readRequest())
} catch (error) {
  answer = { error: errorAnswer(error) }
}
// The module is not finalised: some crash there, and the process ends anyway.
process.stdout.write(JSON.stringify(answer), () => process.exit(0))
