/**
 * Four foreign clients that sign one artifact after another, each with the trust and the signing configuration that it
 * has cached, while an operator changes something. Every attempt is kept, the failed ones too.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type LogVersion, type Material, type SignerName, signers, verifiers } from '../e2e/clients.ts'
import { makeStatement } from '../e2e/context.ts'
import { succeeded } from '../e2e/run.ts'
import { runChancery, type Stack } from '../e2e/stack.ts'

export const SIGNERS = ['cosign 2', 'cosign 3', 'sigstore-python', 'sigstore-js'] as const satisfies SignerName[]
export type Signer = (typeof SIGNERS)[number]

export const IDENTITY = 'release@example.test'

export interface ForeignSignature {
  readonly signer: Signer
  readonly artifact: string
  readonly bundle: string
  readonly startedMs: number
  readonly endedMs: number
  /** Empty if it went well. */
  readonly failure: string
}

export interface ForeignSignersOptions {
  readonly stack: Stack
  /** For artifacts and bundles. */
  readonly folder: string
  readonly log: LogVersion
  readonly material: Material
}

export class ForeignSigners {
  /** What the clients hold from the next signature on. */
  material: Material
  readonly signatures: ForeignSignature[] = []
  readonly #options: ForeignSignersOptions
  readonly #tokenFile: string
  #tokenMadeMs = 0
  #stopped = false
  #loops: Promise<void>[] = []

  constructor(options: ForeignSignersOptions) {
    this.#options = options
    this.material = options.material
    mkdirSync(options.folder, { recursive: true })
    this.#tokenFile = join(options.folder, 'token')
  }

  async start(): Promise<void> {
    await this.#freshToken()
    this.#loops = SIGNERS.map(async (signer) => {
      for (let number = 0; !this.#stopped; number += 1) await this.#sign(signer, number)
    })
  }

  /** Resolves when each client has made this many signatures that it began after now. */
  async more(count: number): Promise<void> {
    const sinceMs = Date.now()
    const has = (signer: Signer) =>
      this.signatures.filter((one) => one.signer === signer && one.startedMs >= sinceMs).length >= count
    while (!SIGNERS.every(has)) {
      const failed = this.signatures.find(({ failure }) => failure !== '')
      if (failed !== undefined) throw new Error(`${failed.signer} could not sign: ${failed.failure}`)
      await new Promise((done) => setTimeout(done, 50))
    }
  }

  /** Lets the signatures that were begun finish. */
  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#loops)
  }

  /** Tokens of the development issuer last ten minutes. */
  async #freshToken(): Promise<void> {
    if (Date.now() - this.#tokenMadeMs < 300_000) return
    this.#tokenMadeMs = Date.now()
    const said = await runChancery(['dev', 'token', '--data', this.#options.stack.dataDir, '--email', IDENTITY])
    writeFileSync(this.#tokenFile, succeeded(said).stdout.trim())
  }

  async #sign(signer: Signer, number: number): Promise<void> {
    const { folder, log } = this.#options
    await this.#freshToken()
    const name = `${signer.replace(' ', '-')}-${number}`
    const artifact = join(folder, `${name}.txt`)
    const bundle = join(folder, `${name}.sigstore.json`)
    writeFileSync(artifact, `${name} ${Math.random()}\n`)
    const files = makeStatement(folder, artifact, readFileSync(artifact))
    const startedMs = Date.now()
    const outcome = await signers[signer]({
      material: this.material,
      log,
      kind: 'blob',
      artifact,
      ...files,
      tokenFile: this.#tokenFile,
      bundle,
    })
    const failure = outcome.status === 0 ? '' : outcome.text
    this.signatures.push({ signer, artifact, bundle, startedMs, endedMs: Date.now(), failure })
  }
}

/** Throws unless `verifier` takes the signature with this trusted root. */
export async function verifyWith(
  verifier: Signer,
  { artifact, bundle }: ForeignSignature,
  { material, log, issuer }: { readonly material: Material; readonly log: LogVersion; readonly issuer: string },
): Promise<void> {
  succeeded(await verifiers[verifier]({ material, log, kind: 'blob', artifact, bundle, identity: IDENTITY, issuer }))
}
