/** What signs must be known to clients first: a signature that nobody can verify is worse than none. */
import { OperatorError } from '#alarms'
import { publishedInventory, type TrustItem } from '#trust-root'
import type { LoadedConfig } from './config.ts'

/** `standby` items are published for verifiers like `trusted` ones. */
const SIGNER_STATES: ReadonlySet<TrustItem['state']> = new Set(['standby', 'trusted', 'active'])

/**
 * Throws `switch_untrusted` unless clients that read the trust root now take what is signed under these certificates, or
 * by this key (`der`, as in the trust item). A server without a trust root of its own cannot tell.
 */
export async function requireTrusted(
  { config, resolve }: LoadedConfig,
  kind: TrustItem['kind'],
  der: readonly Uint8Array[],
): Promise<void> {
  if (config.trustRoot === undefined) return
  const items = (await publishedInventory(resolve(config.trustRoot.folder)))?.items ?? []
  const found = items.find((item) => item.kind === kind && isSame(item.der, der))
  if (found === undefined) {
    throw new OperatorError(
      'switch_untrusted',
      `the published trust root has no ${kind} with exactly these certificates; publish it first: chancery trust status`,
    )
  }
  const { id, state, window } = found
  const nowMs = Date.now()
  const isOpen = window.start.getTime() <= nowMs && (window.end === undefined || window.end.getTime() > nowMs)
  if (SIGNER_STATES.has(state) && isOpen) return
  const why = isOpen ? `it is ${state}` : `its window is ${formatWindow(window)}`
  throw new OperatorError('switch_untrusted', `clients do not take what ${id} signs now: ${why}`)
}

function isSame(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((der, at) => Buffer.compare(der, b[at] ?? new Uint8Array(0)) === 0)
}

function formatWindow({ start, end }: TrustItem['window']): string {
  return `${start.toISOString()} to ${end?.toISOString() ?? 'no end'}`
}
