/**
 * The process of the security officer (`security-officer.ts`): one task from standard input, one answer to standard
 * output. The order of steps follows from what SoftHSM allows: the SO sees no private object, CKA_TRUSTED is set when an
 * object is made and never later, and only by the SO. So a KEK is born in memory as a public session object, and copied to
 * the token as a private one by the user; it never lies on a disk in the clear.
 */
import { randomBytes } from 'node:crypto'
import pkcs11js, { type RsaOAEP } from 'pkcs11js'
import { findKek, KEK_LABEL, withKeyWrap } from './key-backup.ts'
import {
  calling,
  CKA,
  CKF,
  CKK,
  CKM,
  CKO,
  CKU,
  findObjects,
  isWrongPin,
  readAttribute,
  unpadded,
  type Attribute,
  type Cryptoki,
  type Handle,
  type Mechanism,
} from './pkcs11.ts'
import { parseTokenUri } from './pkcs11-uri.ts'
import type { Answer, KekRequest, KekShare, OfficerToken, Task } from './security-officer.ts'
import { HsmError } from './signing.ts'
import { initializeFreeSlot } from './token-initialization.ts'
import { findToken, readPin } from './token.ts'

async function main(): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) chunks.push(chunk)
  const task = JSON.parse(Buffer.concat(chunks).toString('utf8')) as Task // our own parent asks
  let answer: Answer
  try {
    answer = { result: perform(task) }
  } catch (error) {
    const message = error instanceof Error ? error.message : 'failed'
    answer = {
      error:
        error instanceof HsmError ? [error.code, error.reason, message] : ['unavailable', 'officer_failed', message],
    }
  }
  process.stdout.write(JSON.stringify(answer), () => process.exit(0))
}

function perform(task: Task): unknown {
  const { token } = task
  if (token.softhsmConf !== undefined) process.env['SOFTHSM2_CONF'] = token.softhsmConf
  const module = new pkcs11js.PKCS11()
  calling('dlopen', () => module.load(token.modulePath))
  calling('C_Initialize', () => module.C_Initialize({ flags: CKF.OS_LOCKING_OK }))
  if (task.act === 'init') return makeToken(module, token, task.label)
  const officer = Officer.open(module, token)
  switch (task.act) {
    case 'kekInit':
      return officer.makeKek()
    case 'kekRequest':
      return officer.requestKek()
    case 'kekShare':
      return officer.shareKek(task.request)
    default:
      return officer.acceptKek(task.share)
  }
}

function makeToken(module: Cryptoki, token: OfficerToken, label: string): { serial: string } {
  const slot = initializeFreeSlot(module, label, () => ({
    pin: readPin(token.pinFile),
    soPin: readPin(token.soPinFile),
  }))
  return { serial: unpadded(module.C_GetTokenInfo(slot).serialNumber) }
}

/** SHA-1 is what SoftHSM has; OAEP does not need its resistance to collisions (RFC 8017 §B.1). */
const OAEP_SHA1: RsaOAEP = {
  type: pkcs11js.CK_PARAMS_RSA_OAEP,
  hashAlg: CKM.SHA_1,
  mgf: 1,
  source: 1,
  sourceData: Buffer.alloc(0),
}
const OAEP: Mechanism = { mechanism: CKM.RSA_PKCS_OAEP, parameter: OAEP_SHA1 }

const TRANSPORT_LABEL = 'chancery-kek-transport'
const TRANSPORT_BITS = 3072
const PUBLIC_EXPONENT = Buffer.from([1, 0, 1])

/** One session on one token, logged in as one or the other. */
class Officer {
  readonly #module: Cryptoki
  readonly #session: Handle
  readonly #label: string
  readonly #pins: { readonly user: string; readonly so: string }

  private constructor(module: Cryptoki, session: Handle, label: string, pins: { user: string; so: string }) {
    this.#module = module
    this.#session = session
    this.#label = label
    this.#pins = pins
  }

  /** Finds the token; refuses before any login if it remembers a wrong PIN of either. */
  static open(module: Cryptoki, token: OfficerToken): Officer {
    const { slot, facts } = findToken(module, parseTokenUri(token.uri))
    const suspicious = [
      [CKF.USER_PIN_COUNT_LOW | CKF.USER_PIN_FINAL_TRY | CKF.USER_PIN_LOCKED, 'user'],
      [CKF.SO_PIN_COUNT_LOW | CKF.SO_PIN_FINAL_TRY | CKF.SO_PIN_LOCKED, "security officer's"],
    ] as const
    for (const [bits, whose] of suspicious) {
      if ((facts.flags & bits) === 0) continue
      const message = `a wrong ${whose} PIN was given to token ${facts.label} since its last login; log in by hand first`
      throw new HsmError('latched', 'pin_count_low', message)
    }
    const user = readPin(token.pinFile)
    const so = readPin(token.soPinFile)
    const flags = CKF.SERIAL_SESSION | CKF.RW_SESSION
    const session = Buffer.from(calling('C_OpenSession', () => module.C_OpenSession(slot, flags)))
    return new Officer(module, session, facts.label, { user, so })
  }

  makeKek(): { kekIdHex: string } {
    this.#as('user', () => this.#refuseSecondKek())
    const id = randomBytes(16)
    const template = [...this.#kekTemplate(id, false), { type: CKA.VALUE_LEN, value: 32 }]
    const born = this.#as('so', () =>
      this.#call('C_GenerateKey', (module) =>
        module.C_GenerateKey(this.#session, { mechanism: CKM.AES_KEY_GEN, parameter: Buffer.alloc(0) }, template),
      ),
    )
    this.#as('user', () => this.#keep(born))
    return { kekIdHex: id.toString('hex') }
  }

  requestKek(): KekRequest {
    const id = randomBytes(16)
    const common = [
      { type: CKA.KEY_TYPE, value: CKK.RSA },
      { type: CKA.TOKEN, value: true },
      { type: CKA.ID, value: id },
      { type: CKA.LABEL, value: TRANSPORT_LABEL },
    ]
    return this.#as('user', () => {
      this.#refuseSecondKek()
      // An earlier request that nobody answered is void with this one.
      this.#destroyTransport()
      const pair = this.#call('C_GenerateKeyPair', (module) =>
        module.C_GenerateKeyPair(
          this.#session,
          { mechanism: CKM.RSA_PKCS_KEY_PAIR_GEN, parameter: Buffer.alloc(0) },
          [
            ...common,
            { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
            { type: CKA.WRAP, value: true },
            { type: CKA.MODULUS_BITS, value: TRANSPORT_BITS },
            { type: CKA.PUBLIC_EXPONENT, value: PUBLIC_EXPONENT },
          ],
          [
            ...common,
            { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
            { type: CKA.PRIVATE, value: true },
            { type: CKA.SENSITIVE, value: true },
            { type: CKA.EXTRACTABLE, value: false },
            { type: CKA.UNWRAP, value: true },
            { type: CKA.DECRYPT, value: false },
            { type: CKA.SIGN, value: false },
          ],
        ),
      )
      const modulus = readAttribute(this.#module, this.#session, pair.publicKey, CKA.MODULUS)
      return { idHex: id.toString('hex'), modulusHex: Buffer.from(modulus).toString('hex') }
    })
  }

  shareKek(request: KekRequest): KekShare {
    const modulus = Buffer.from(request.modulusHex, 'hex')
    if (modulus.length * 8 !== TRANSPORT_BITS) {
      throw new HsmError('refused', 'bad_request', `the request's key is not RSA-${TRANSPORT_BITS}`)
    }
    // In this process' memory alone, and gone with it: nobody finds a trusted wrapping key on the token later.
    const trusted = this.#as('so', () =>
      this.#call('C_CreateObject', (module) =>
        module.C_CreateObject(this.#session, [
          { type: CKA.CLASS, value: CKO.PUBLIC_KEY },
          { type: CKA.KEY_TYPE, value: CKK.RSA },
          { type: CKA.TOKEN, value: false },
          { type: CKA.PRIVATE, value: false },
          { type: CKA.WRAP, value: true },
          { type: CKA.ENCRYPT, value: false },
          { type: CKA.VERIFY, value: false },
          { type: CKA.TRUSTED, value: true },
          { type: CKA.MODULUS, value: modulus },
          { type: CKA.PUBLIC_EXPONENT, value: PUBLIC_EXPONENT },
        ]),
      ),
    )
    return this.#as('user', () => {
      const kek = findKek(this.#module, this.#session, [{ type: CKA.WRAP, value: true }])
      const wrapped = this.#call('C_WrapKey', (module) =>
        module.C_WrapKey(this.#session, OAEP, trusted, kek.handle, Buffer.alloc(modulus.length)),
      )
      return {
        kekIdHex: kek.idHex,
        requestIdHex: request.idHex,
        wrappedHex: Buffer.from(wrapped).toString('hex'),
      }
    })
  }

  acceptKek(share: KekShare): { kekIdHex: string } {
    const id = Buffer.from(share.kekIdHex, 'hex')
    const arrived = this.#as('user', () => {
      this.#refuseSecondKek()
      const [transport] = findObjects(
        this.#module,
        this.#session,
        [
          { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
          { type: CKA.ID, value: Buffer.from(share.requestIdHex, 'hex') },
        ],
        1,
      )
      if (transport === undefined) {
        throw new HsmError('refused', 'no_request', 'this token has not asked for that share: its request is another')
      }
      // The user cannot declare it trusted; it stays in memory until the SO has.
      const template = this.#kekTemplate(id, true).filter(({ type }) => type !== CKA.TRUSTED)
      return this.#call('C_UnwrapKey', (module) =>
        module.C_UnwrapKey(this.#session, OAEP, transport, Buffer.from(share.wrappedHex, 'hex'), template),
      )
    })
    // SoftHSM takes CKA_TRUSTED when an object is made and never later: wrapped and unwrapped once more, by the SO.
    const trusted = this.#as('so', () => {
      const passing = this.#call('C_GenerateKey', (module) =>
        module.C_GenerateKey(this.#session, { mechanism: CKM.AES_KEY_GEN, parameter: Buffer.alloc(0) }, [
          { type: CKA.TOKEN, value: false },
          { type: CKA.PRIVATE, value: false },
          { type: CKA.SENSITIVE, value: true },
          { type: CKA.EXTRACTABLE, value: false },
          { type: CKA.WRAP, value: true },
          { type: CKA.UNWRAP, value: true },
          { type: CKA.TRUSTED, value: true },
          { type: CKA.VALUE_LEN, value: 32 },
        ]),
      )
      return withKeyWrap('C_UnwrapKey', (mechanism) => {
        const wrapped = Buffer.from(
          this.#module.C_WrapKey(this.#session, mechanism, passing, arrived, Buffer.alloc(256)),
        )
        return this.#module.C_UnwrapKey(this.#session, mechanism, passing, wrapped, this.#kekTemplate(id, true))
      })
    })
    this.#as('user', () => {
      this.#keep(trusted)
      this.#destroyTransport()
    })
    return { kekIdHex: share.kekIdHex }
  }

  /** In memory, visible to both roles: the SO sees no private object, the user may not set CKA_TRUSTED. */
  #kekTemplate(id: Buffer, unwraps: boolean): Attribute[] {
    return [
      { type: CKA.CLASS, value: CKO.SECRET_KEY },
      { type: CKA.KEY_TYPE, value: CKK.AES },
      { type: CKA.TOKEN, value: false },
      { type: CKA.PRIVATE, value: false },
      { type: CKA.SENSITIVE, value: true },
      // To other tokens, under a key that their request brought and the SO trusted.
      { type: CKA.EXTRACTABLE, value: true },
      { type: CKA.WRAP_WITH_TRUSTED, value: true },
      { type: CKA.WRAP, value: true },
      { type: CKA.UNWRAP, value: unwraps },
      { type: CKA.ENCRYPT, value: false },
      { type: CKA.DECRYPT, value: false },
      { type: CKA.SIGN, value: false },
      { type: CKA.VERIFY, value: false },
      { type: CKA.ID, value: id },
      { type: CKA.LABEL, value: KEK_LABEL },
      { type: CKA.TRUSTED, value: true },
    ]
  }

  /** As the user: the trusted KEK becomes a private object of the token, encrypted there, that nobody changes. */
  #keep(inMemory: Handle): void {
    const kept = this.#call('C_CopyObject', (module) =>
      module.C_CopyObject(this.#session, inMemory, [
        { type: CKA.TOKEN, value: true },
        { type: CKA.PRIVATE, value: true },
        { type: CKA.MODIFIABLE, value: false },
      ]),
    )
    const must = [
      [CKA.TRUSTED, 1],
      [CKA.PRIVATE, 1],
      [CKA.SENSITIVE, 1],
      [CKA.WRAP_WITH_TRUSTED, 1],
      [CKA.DECRYPT, 0],
    ] as const
    for (const [type, value] of must) {
      if (readAttribute(this.#module, this.#session, kept, type)[0] === value) continue
      this.#call('C_DestroyObject', (module) => module.C_DestroyObject(this.#session, kept))
      const message = `token does not make a key-encryption key that is trusted and private (0x${type.toString(16)})`
      throw new HsmError('refused', 'token_cannot_trust', message)
    }
  }

  #refuseSecondKek(): void {
    const template = [
      { type: CKA.CLASS, value: CKO.SECRET_KEY },
      { type: CKA.LABEL, value: KEK_LABEL },
      { type: CKA.TOKEN, value: true },
    ]
    if (findObjects(this.#module, this.#session, template, 1).length === 0) return
    throw new HsmError('refused', 'kek_exists', `token ${this.#label} has a key-encryption key already`)
  }

  #destroyTransport(): void {
    const template = [{ type: CKA.LABEL, value: TRANSPORT_LABEL }]
    for (const object of findObjects(this.#module, this.#session, template, 16)) {
      this.#call('C_DestroyObject', (module) => module.C_DestroyObject(this.#session, object))
    }
  }

  /** Logs in, works, logs out; a wrong PIN is told and not tried again. */
  #as<T>(who: 'user' | 'so', work: () => T): T {
    try {
      this.#call('C_Login', (module) =>
        module.C_Login(this.#session, who === 'so' ? CKU.SO : CKU.USER, this.#pins[who]),
      )
    } catch (error) {
      if (!isWrongPin(error)) throw error
      const whose = who === 'so' ? "security officer's" : 'user'
      throw new HsmError('latched', 'pin_refused', `token ${this.#label} refused the ${whose} PIN (${String(error)})`)
    }
    try {
      return work()
    } finally {
      this.#call('C_Logout', (module) => module.C_Logout(this.#session))
    }
  }

  #call<T>(name: string, run: (module: Cryptoki) => T): T {
    const result = calling(name, () => run(this.#module))
    return (result instanceof Buffer ? Buffer.from(result) : result) as T // a copy: pkcs11js may use its buffer again
  }
}

await main()
