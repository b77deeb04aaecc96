/** What the rotations of keys with a certificate share: issuing CA, root CA, timestamp authority. */
import { readFileSync } from 'node:fs'
import { OperatorError } from '#alarms'
import { BACKDATE_SECONDS, type TrustItem, type TrustItemKind } from '#trust-root'
import { editAgentFile, keyIn, putKey, reachOf, reload, withSide } from './agent-file.ts'
import { chainIn, chainOfFile, issuerHere, writeCertificate } from './certificates.ts'
import { type Facts, formerKey, known } from './facts.ts'
import { entryOf, nextFreeName, plannedLike, signerOf } from './keys.ts'
import { inventoryOf, itemOfDer, wholeSeconds } from './publication.ts'
import type { Installation, Rotation, Step, Wishes } from './rotation.ts'

/** A service with a certificate, as it is configured now. */
export interface Authority {
  readonly key: string
  /** PEM file, absolute; the certificate of the key first, the root last. */
  readonly chain: string
  readonly profile: 'issuing' | 'timestamp'
  /** As its certificate is called, behind the domain: `issuing CA`. */
  readonly title: string
  /** PEM files whose roots may sign the new certificate, the preferred first. */
  readonly rootsOf: readonly string[]
}

/** Facts of a new key like the former, certified below a root that is here already. */
export async function planAuthority(
  installation: Installation,
  authority: Authority,
  { wishes, now }: { readonly wishes: Wishes; readonly now: Date },
): Promise<Facts> {
  const { key, profile, title } = authority
  const [own = new Uint8Array()] = chainOfFile(authority.chain)
  const item = await itemOfDer(installation, own)
  requireActive(item)
  const roots = authority.rootsOf.map((path) => known(chainOfFile(path).at(-1), 'root'))
  const issuerKey = issuerHere(installation, roots)?.issuerKey
  const name = await nextFreeName(installation, key)
  const signer = await plannedLike(installation, key, { name, side: 'services' })
  return {
    destroyOldKey: wishes.destroyOldKey ?? false,
    former: { keys: [{ name: key, side: 'services' }], item: item.id },
    // Of a window that was cut in two, too.
    item: await nextFreeName(installation, item.id.replace(/-after-\d+$/, '')),
    start: startingNow(now),
    keys: { signer },
    certificate: {
      profile,
      organization: installation.domain,
      commonName: numbered(`${installation.domain} ${title}`, name),
      ...(issuerKey === undefined ? {} : { issuerKey }),
      roots: authority.rootsOf.map((path) => readFileSync(path, 'utf8')).join(''),
    },
  }
}

/** A service that an emergency took over has to be told to the trust root first. */
export function requireActive({ id, state }: TrustItem): void {
  if (state === 'active') return
  throw new OperatorError(
    'rotation_impossible',
    `the trust root has ${id}, whose key signs now, as ${state}; after an emergency go on with: chancery rotate standby`,
  )
}

/** `example.org issuing CA` of the key `issuing-ca-3` → `example.org issuing CA 3`: chains are found by names, too. */
export function numbered(name: string, keyName: string): string {
  const [, number] = /-(\d+)$/.exec(keyName) ?? []
  return number === undefined ? name : `${name} ${number}`
}

/** A little in the past: sigstore-python hides what begins in its future. */
export function startingNow(now: Date): string {
  return wholeSeconds(new Date(now.getTime() - BACKDATE_SECONDS * 1000))
}

/** The new key in the services' agent, with the options of the former one and its own certificate. */
export const agentStep: Step = {
  name: 'agent',
  run: async (rotation) => {
    const { installation, facts } = rotation
    const signer = signerOf(facts)
    const former = formerKey(facts)
    const reach = reachOf(installation, 'services')
    const {
      uris: _uris,
      uri: _uri,
      token: _token,
      spki: _spki,
      kind: _kind,
      curve: _curve,
      ...options
    } = keyIn(reach, former.name)
    const issuerCertificate =
      options['issuerCertificate'] === undefined ? {} : { issuerCertificate: writeCertificate(rotation) }
    editAgentFile(reach, (document) =>
      putKey(document, signer.name, { ...entryOf(signer), ...options, ...issuerCertificate }, former.name),
    )
    await withSide(installation, 'services', (admin) => reload(admin, [signer.name]))
    return undefined
  },
}

/** What verifiers are told of the new chain: the address stays. */
export function itemOf(kind: TrustItemKind): (rotation: Rotation) => Promise<TrustItem> {
  return async ({ installation, facts }) => {
    const { items } = await inventoryOf(installation)
    const former = known(
      items.find(({ id }) => id === facts.former.item),
      'former item',
    )
    return {
      id: known(facts.item, 'item'),
      kind,
      der: chainIn(known(facts.chain, 'chain')),
      url: former.url,
      window: { start: new Date(facts.start) },
      state: 'trusted',
    }
  }
}

/** Asks the server to sign with the new key from now on; requests under way end with the former one. */
export function switchStep(verb: 'ca-switch' | 'tsa-switch'): Step {
  return {
    name: 'switch',
    run: async ({ installation, facts, keep, now }) => {
      await installation.ask(verb, { key: signerOf(facts).name, chain: known(facts.chain, 'chain') })
      keep({ switchedAt: now().toISOString() })
      return undefined
    },
  }
}
