/** What the verbs that change a signer have in common: its argument, its chain as a file, and what is told of it. */
import { createHash, hash } from 'node:crypto'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { CaError } from '#ca'
import { OperatorError } from '#alarms'
import { HsmError } from '#hsm'
import { replaceDurably } from '#lifecycle'
import { TimestampError } from '#timestamp'
import { decodePem, encodePem, X509Error } from '#x509'
import type { LoadedConfig } from './config.ts'

/** `chain`: PEM, the certificate of `key` first, its root last. */
export const signerArgument = z.strictObject({
  key: z.string().min(1),
  chain: z.string().min(1),
  /** Other keys may be lost as well: what needs them is not tried first. */
  emergency: z.boolean().default(false),
})

export interface SignerSwitched {
  /** The agent's names of what signs now and of what signed before. */
  readonly key: string
  readonly former: string
  /** It signed already; nothing was changed. */
  readonly already: boolean
  /** PEM file of the chain, relative to the data folder as the configuration has it. */
  readonly chainFile: string
}

/** DER of the certificates; throws `switch_refused` for text that has none. */
export function certificatesIn(pem: string): Uint8Array[] {
  try {
    const certificates = decodePem(pem, { labels: ['CERTIFICATE'] }).map(({ der }) => der)
    if (certificates.length > 0) return certificates
  } catch (cause) {
    throw new OperatorError('switch_refused', 'the certificates are not PEM', { cause })
  }
  throw new OperatorError('switch_refused', 'there is no certificate in what was given')
}

/**
 * Writes a chain beside the one that it follows, under a name that says whose it is and what is in it, so that writing it
 * again changes nothing and no older one is lost. Durable when it returns the configuration's path of it.
 */
export function writeChain(
  { resolve }: Pick<LoadedConfig, 'resolve'>,
  former: string,
  { name, certificates }: { readonly name: string; readonly certificates: readonly Uint8Array[] },
): string {
  const pem = certificates.map((der) => encodePem('CERTIFICATE', der)).join('')
  const file = join(dirname(former), `${name}-${hash('sha256', pem).slice(0, 12)}.pem`)
  replaceDurably(resolve(file), pem)
  return file
}

export function sameCertificates(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  const digest = (chain: readonly Uint8Array[]) => {
    const all = createHash('sha256')
    for (const der of chain) all.update(`${der.length}:`).update(der)
    return all.digest('hex')
  }
  return digest(a) === digest(b)
}

/** Why a signer is not fit for service, in the operator's terms: what the service or the agent found wrong with it. */
export async function trying<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    const known =
      cause instanceof CaError ||
      cause instanceof TimestampError ||
      cause instanceof X509Error ||
      (cause instanceof HsmError && (cause.code === 'unknown_key' || cause.code === 'refused'))
    if (!known) throw cause
    const deeper = cause.cause instanceof Error ? `: ${cause.cause.message}` : ''
    throw new OperatorError('switch_refused', `${what}: ${cause.message}${deeper}; nothing was changed`, { cause })
  }
}
