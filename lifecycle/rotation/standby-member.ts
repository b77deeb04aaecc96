/** One kind of what stands by: planned, seen as a rotation of its own, and as the plan of standbys has it in the end. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { OperatorError } from '#alarms'
import { KEY_KINDS, type KeyKind } from '#hsm'
import { decodePem, encodePem, equalBytes, parseCertificate } from '#x509'
import { standbyPort } from '../layout.ts'
import { newTreeId, shardOrigin } from '../log-names.ts'
import { isFreePort } from '../ports.ts'
import { chainOf, type StandbyKind, type StandbyMember, type StandbyPlan } from '../standby-plan.ts'
import { withSide } from './agent-file.ts'
import { numbered } from './authority.ts'
import { chainOfFile, issuerHere } from './certificates.ts'
import { type Facts, known, type PlannedKey, type StandbyFacts } from './facts.ts'
import { entryOf, nextFreeName, spkiOf } from './keys.ts'
import { itemOfDer } from './publication.ts'
import type { Installation, Rotation, Wishes } from './rotation.ts'
import type { Serving } from './serving.ts'
import { activeLog, addressOf } from './shard.ts'

const LOG_KINDS = { 'ct-log': 'ct', 'rekor-v1': 'rekor-v1', 'rekor-v2': 'rekor-v2' } as const

const TITLES = { 'issuing-ca': 'issuing CA', tsa: 'timestamp authority' } as const

/** The name of a token that is made here, by the file of its agent. */
export function tokenNameOf(agent: string): string {
  return basename(agent, '.yaml')
}

/** One of them, as the journal has it. */
export type MemberFacts = StandbyFacts['members'][number]

/** Authorities whose root is not the CA's any more. */
export function staleOf(installation: Installation, existing: StandbyPlan | undefined): StandbyMember[] {
  const { ca, resolve } = installation
  if (ca === undefined) return []
  const root = chainOfFile(resolve(ca.chain)).at(-1) ?? new Uint8Array()
  return (existing?.members ?? []).filter(
    (member) =>
      'chain' in member && !equalBytes(chainOf(installation.dataDir, member).at(-1) ?? new Uint8Array(), root),
  )
}

export function isServed({ ca, timestamp, logs }: Installation, kind: StandbyKind): boolean {
  if (kind === 'issuing-ca') return ca !== undefined
  if (kind === 'tsa') return timestamp !== undefined
  return logs.some((log) => log.kind === LOG_KINDS[kind])
}

/** What signs now, by the configuration: its key, and of an authority its chain. */
export function formerOf(
  installation: Installation,
  kind: StandbyKind,
): { readonly key: string; readonly chain?: string } {
  const { ca, timestamp, resolve } = installation
  if (kind !== 'issuing-ca' && kind !== 'tsa') return { key: activeLog(installation, LOG_KINDS[kind]).key }
  const found = kind === 'tsa' ? timestamp : ca
  if (found === undefined) throw new OperatorError('rotation_impossible', `this installation has no ${kind}`)
  return { key: found.key, chain: resolve(found.chain) }
}

/** Names, ids and addresses of a new member; nothing is made. */
export async function planMember(
  installation: Installation,
  kind: StandbyKind,
  { agent, serving }: { readonly agent: string; readonly serving: Serving },
): Promise<MemberFacts> {
  const { key, chain } = formerOf(installation, kind)
  const entry = serving.key(key)
  const name = await nextFreeName(installation, key)
  const { token, idBytes } = await standbyToken(installation, agent)
  const planned = (label: string, of: string | undefined): PlannedKey => {
    const idHex = randomBytes(idBytes).toString('hex')
    return { name: label, side: 'services', token, kind: kindOf(of), idHex, backup: false }
  }
  const signer = planned(name, entry.kind)
  if (kind === 'issuing-ca' || kind === 'tsa') {
    const root = known(chainOfFile(rootsOf(installation)).at(-1), 'root')
    const issuerKey = issuerHere(installation, [root])?.issuerKey
    return {
      kind,
      item: name,
      url: (await itemOfDer(installation, chainOfFile(known(chain, 'chain'))[0] ?? new Uint8Array())).url,
      keys: { signer },
      certificate: {
        profile: kind === 'tsa' ? 'timestamp' : 'issuing',
        organization: installation.domain,
        commonName: numbered(`${installation.domain} ${TITLES[kind]}`, name),
        ...(issuerKey === undefined ? {} : { issuerKey }),
        roots: encodePem('CERTIFICATE', root),
      },
    }
  }
  const log = activeLog(installation, LOG_KINDS[kind])
  const treeId = newTreeId()
  const address = await addressOf(log, await nextPort(log), name)
  return {
    kind,
    item: name,
    url: address.url,
    keys: { signer, ...(entry.witnessKey === undefined ? {} : { witness: planned(`${name}-witness`, 'ed25519') }) },
    shard: {
      name,
      origin: shardOrigin(log, name, treeId),
      ...(log.kind === 'rekor-v1' ? { treeId } : {}),
      ...address,
      database: join(dirname(log.database), `${name}.db`),
    },
  }
}

/** A log at an address has the port that follows, as at the beginning: whoever publishes ports knows it. */
async function nextPort({ kind, listen, url }: ReturnType<typeof activeLog>): Promise<Pick<Wishes, 'listen' | 'url'>> {
  const { hostname, port } = new URL(url)
  if (kind === 'rekor-v1' || !isAddress(hostname) || !listen.endsWith(`:${port}`)) return {}
  const host = listen.slice(0, listen.lastIndexOf(':'))
  const next = standbyPort(Number(port))
  if (!(await isFreePort(host.replace(/^\[|\]$/g, ''), next))) return {}
  return { listen: `${host}:${next}`, url: url.replace(/:\d+$/, `:${next}`) }
}

function isAddress(hostname: string): boolean {
  return hostname === 'localhost' || /^[\d.]+$|^\[/.test(hostname)
}

/** Both authorities are made below the root of the CA; without a CA below the timestamp authority's own. */
function rootsOf({ ca, timestamp, resolve }: Installation): string {
  return resolve(known(ca?.chain ?? timestamp?.chain, 'chain'))
}

function kindOf(text: string | undefined): KeyKind {
  return KEY_KINDS.find((kind) => kind === text) ?? 'P-256'
}

/** Where the keys are made; the token of a new installation where there is none yet. */
async function standbyToken(
  installation: Installation,
  agent: string,
): Promise<{ readonly token: string; readonly idBytes: number }> {
  const inner = onStandby(installation, agent)
  if (!existsSync(inner.agent.agent)) return { token: tokenNameOf(agent), idBytes: 16 }
  return await withSide(inner, 'services', async (admin) => {
    const [details] = await admin.tokens()
    if (details === undefined) throw new OperatorError('standby_missing', `${agent} names no token`)
    return { token: details.name, idBytes: details.idBytes }
  })
}

/** The installation as if the standby's agent were the one of its services. */
export function onStandby(installation: Installation, agent: string): Installation {
  const reach = { dataDir: installation.dataDir, agent: installation.resolve(agent) }
  return { ...installation, agent: reach, agentApart: false }
}

/** Throws `TypeError` for a rotation of another kind. */
export function standbyOf({ standby }: Facts): StandbyFacts {
  return known(standby, 'standby set')
}

/** The member that `memberRotation` is of. */
export function memberOf({ facts }: Rotation): MemberFacts {
  const member = standbyOf(facts).members.find(({ item }) => item === facts.item)
  return known(member, 'member')
}

/** One member as if it were a rotation of its own, whose services' agent is the standby's; with the certificate that was brought for it. */
export function memberRotation(rotation: Rotation, item: string, brought?: string): Rotation {
  const facts = (): Facts => {
    const whole = rotation.facts
    const { keys, certificate, chain, requestFile, shard } = known(
      standbyOf(whole).members.find((member) => member.item === item),
      'member',
    )
    return { ...whole, item, keys, certificate, chain, requestFile, shard }
  }
  return {
    ...rotation,
    installation: onStandby(rotation.installation, standbyOf(rotation.facts).agent),
    resuming: brought === undefined ? {} : { certificate: brought },
    get facts() {
      return facts()
    },
    keep: ({ keys, chain, requestFile, ...whole }) => {
      rotation.keep(whole)
      const standby = standbyOf(rotation.facts)
      const changes = {
        ...(keys?.signer === undefined ? {} : { keys: { ...keys, signer: keys.signer } }),
        ...(chain === undefined ? {} : { chain }),
        ...(requestFile === undefined ? {} : { requestFile }),
      }
      const members = standby.members.map((member) => (member.item === item ? { ...member, ...changes } : member))
      rotation.keep({ standby: { ...standby, members } })
    },
  }
}

/** Whether a certificate that somebody brought is of this member's key. */
export function isOfKey(pem: string, { keys }: MemberFacts): boolean {
  try {
    const [own] = decodePem(pem, { labels: ['CERTIFICATE'] })
    return own !== undefined && equalBytes(parseCertificate(own.der).publicKey.spkiDer, spkiOf(keys.signer))
  } catch {
    // Told by whoever reads it.
    return false
  }
}

/** As the plan has it, once its keys are made and its chain is there. */
export function madeMember({ kind, item, url, keys, shard }: MemberFacts): StandbyMember {
  const { signer, witness } = keys
  if (kind === 'issuing-ca' || kind === 'tsa') {
    return { kind, name: item, url, key: entryOf(signer), ...authorityFiles({ kind, item }) }
  }
  const { treeId = '', name, origin, listen, database } = known(shard, 'shard')
  const witnessed = witness === undefined ? {} : { witnessKey: entryOf(witness) }
  const log = { name, origin, listen, url, database, key: entryOf(signer), ...witnessed }
  return kind === 'rekor-v1' ? { kind, ...log, treeId } : { kind, ...log }
}

/** Where the certificate of an authority and its chain are, below the data folder. */
export function authorityFiles({ kind, item }: Pick<MemberFacts, 'kind' | 'item'>): {
  readonly certificate: string
  readonly chain: string
} {
  const folder = kind === 'tsa' ? 'timestamp' : 'ca'
  return { certificate: `${folder}/${item}.pem`, chain: `${folder}/${item}-chain.pem` }
}
