/**
 * What stands by is made whole again: a key on the standby token for each kind of which nothing stands by, certified and
 * published. What an emergency brought into service is told to the trust root in the same release, or in one before it
 * where certificates have to be carried. An authority below a root that the CA has left is made anew, and everything once
 * the serving agent opens the token, which an emergency is: what stands by gets another one.
 *
 *     token ─ settle ─ key ─ certify ─ agent ─ publish ─ record
 *
 * Nobody waits for caches: nothing of it signs before an emergency.
 */
import { existsSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { stringify } from 'yaml'
import { OperatorError } from '#alarms'
import { createSoftTokens } from '#hsm/softhsm'
import { witnessOrigin } from '#tlog'
import { jsonOfItem } from '#trust-root'
import { readAgentFile } from '../agents.ts'
import { encodeChain } from '../ceremony/certificate-request.ts'
import { replaceDurably } from '../durable-file.ts'
import { readStandbyPlan, STANDBY_AGENT, STANDBY_KINDS, standbyItems, writeStandbyPlan } from '../standby-plan.ts'
import { settlement } from '../standby-settle.ts'
import { dropKey, editAgentFile, putKey, reachOf } from './agent-file.ts'
import { startingNow } from './authority.ts'
import { certifyStep, chainIn } from './certificates.ts'
import { type Facts, known } from './facts.ts'
import { entryOf, keyStep, signerOf } from './keys.ts'
import { change } from './publication.ts'
import type { Installation, Pause, Rotation, RotationPlan, Step } from './rotation.ts'
import { type Serving, servingOf, whyByHand } from './serving.ts'
import {
  authorityFiles,
  formerOf,
  isOfKey,
  isServed,
  madeMember,
  type MemberFacts,
  memberOf,
  memberRotation,
  planMember,
  staleOf,
  standbyOf,
  tokenNameOf,
} from './standby-member.ts'

async function plan(installation: Installation, _wishes: unknown, now: Date): Promise<Facts> {
  const existing = readStandbyPlan(installation.dataDir)
  const serving = await servingOf(installation)
  const agent = unopenedAgent(installation, serving, existing?.agent ?? STANDBY_AGENT)
  const stale = agent === existing?.agent ? staleOf(installation, existing) : (existing?.members ?? [])
  const there = new Set((existing?.members ?? []).filter((member) => !stale.includes(member)).map(({ kind }) => kind))
  const kinds = STANDBY_KINDS.filter((kind) => !there.has(kind) && isServed(installation, kind))
  if (kinds.length === 0 && (existing?.inService.length ?? 0) === 0) {
    throw new OperatorError('rotation_impossible', 'something stands by for every kind already: nothing to do')
  }
  const members: MemberFacts[] = []
  for (const kind of kinds) members.push(await planMember(installation, kind, { agent, serving }))
  const signing = STANDBY_KINDS.flatMap((kind) =>
    isServed(installation, kind) ? [formerOf(installation, kind).key] : [],
  )
  return {
    destroyOldKey: false,
    former: { keys: signing.map((name) => ({ name, side: 'services' as const })) },
    start: startingNow(now),
    keys: {},
    standby: { agent, members, stale: stale.map(({ name }) => name), settled: false },
  }
}

/** The agent of a token that the serving one does not open: this one, or the next that is there or can be made. */
function unopenedAgent(installation: Installation, { opens }: Serving, agent: string): string {
  for (let number = 2, at = agent; ; number++) {
    const path = installation.resolve(at)
    const tokens = existsSync(path) ? readAgentFile({ dataDir: installation.dataDir, agent: path }).tokens : {}
    if (!Object.values(tokens).some(({ uri }) => opens(uri))) return at
    at = `${STANDBY_AGENT.replace(/\.yaml$/, '')}-${number}.yaml`
  }
}

/** In development the token is made here; elsewhere somebody has put it and its agent's file there. */
const tokenStep: Step = {
  name: 'token',
  run: async ({ installation, facts }) => {
    const file = installation.resolve(standbyOf(facts).agent)
    if (existsSync(file)) return undefined
    const isOurs = whyByHand(installation) === undefined
    const { softhsmConf, modulePath = '' } = isOurs ? readAgentFile(installation.agent) : {}
    if (softhsmConf === undefined || relative(installation.dataDir, softhsmConf).startsWith('..')) {
      throw new OperatorError(
        'standby_missing',
        `${file} is not there: make a token for what stands by, and a file for its agent (docs/operations.md)`,
      )
    }
    const folder = dirname(softhsmConf)
    const name = tokenNameOf(standbyOf(facts).agent)
    const made = await createSoftTokens({ folder, labels: [`chancery-${name}`], modulePath })
    const [token] = made.tokens
    if (token === undefined) throw new TypeError('no token was made')
    const { uri, pinFile } = token
    const tokens = { [name]: { uri, pinFile, softhsmConf: made.confPath } }
    const config = { state: name, modulePath: made.modulePath, tokens, keys: {}, adminWhenSpawned: true }
    replaceDurably(file, stringify(config, { lineWidth: 120 }))
    return undefined
  },
}

/** At once where the rest may take days: who signs now, and until when the former did. */
const settleStep: Step = {
  name: 'settle',
  run: async (rotation) => {
    const isQuick = standbyOf(rotation.facts).members.every(
      ({ certificate }) => certificate === undefined || certificate.issuerKey !== undefined,
    )
    if (isQuick) return undefined
    const changes = await settlement(rotation.installation)
    const pause = changes.length === 0 ? undefined : await change(rotation, changes)
    if (pause === undefined) rotation.keep({ standby: { ...standbyOf(rotation.facts), settled: true } })
    return pause
  },
}

const keysStep: Step = {
  name: 'key',
  run: async (rotation) => {
    for (const { item } of standbyOf(rotation.facts).members) await keyStep.run(memberRotation(rotation, item))
    return undefined
  },
}

/** Every request is written before anybody is told to carry them; a certificate goes to the key that it is of. */
const certificatesStep: Step = {
  name: 'certify',
  run: async (rotation) => {
    const { certificate: brought } = rotation.resuming
    const wanting = standbyOf(rotation.facts).members.filter(
      ({ certificate, chain }) => certificate !== undefined && chain === undefined,
    )
    // Of none of them: the first says what is wrong with it.
    const of = wanting.find((member) => brought !== undefined && isOfKey(brought, member)) ?? wanting[0]
    let pause: Pause | undefined
    for (const member of wanting) {
      const certificate = member === of ? brought : undefined
      const found = await certifyStep.run(memberRotation(rotation, member.item, certificate))
      pause ??= found
    }
    return pause
  },
}

const agentStep: Step = {
  name: 'agent',
  run: async (rotation) => {
    const serving = await servingOf(rotation.installation)
    for (const { item } of standbyOf(rotation.facts).members)
      configure(rotation, serving, memberRotation(rotation, item))
    return undefined
  },
}

/** The new keys in the standby's agent, with the options of those that sign now. */
function configure({ installation }: Rotation, serving: Serving, rotation: Rotation): void {
  const { facts } = rotation
  const member = memberOf(rotation)
  const signer = signerOf(facts)
  const {
    uris: _uris,
    curve: _curve,
    witnessKey: _witness,
    ctKey,
    ...options
  } = serving.key(formerOf(installation, member.kind).key)
  const reach = reachOf(rotation.installation, 'services')
  const own: Record<string, unknown> = { ...entryOf(signer) }
  if (member.certificate !== undefined) {
    const certificate = writeCertificates(rotation)
    if ('issuerCertificate' in options)
      own['issuerCertificate'] = relative(dirname(readAgentFile(reach).path), certificate)
    // Of its own file only a key can name the log of today.
    if (ctKey !== undefined) own['ctKey'] = [ctKey].flat().map((log) => serving.spkiOf(log) ?? log)
  }
  editAgentFile(reach, (document) => {
    const { shard } = member
    const { witness } = facts.keys
    const witnessed = witness === undefined ? {} : { witnessKey: witness.name }
    const logged = shard === undefined ? {} : { origin: shard.origin, ...witnessed }
    putKey(document, signer.name, { ...options, ...own, ...logged })
    if (witness !== undefined && shard !== undefined) {
      const purposes = ['witnessHead']
      putKey(document, witness.name, { ...entryOf(witness), purposes, origin: witnessOrigin(shard.origin) })
    }
  })
}

/** Certificate and chain where the plan says that they are; the path of the first, absolute. */
function writeCertificates(rotation: Rotation): string {
  const { installation, facts } = rotation
  const files = authorityFiles(memberOf(rotation))
  const chain = chainIn(known(facts.chain, 'chain'))
  const certificate = join(installation.dataDir, files.certificate)
  replaceDurably(certificate, encodeChain(chain.slice(0, 1)))
  replaceDurably(join(installation.dataDir, files.chain), encodeChain(chain))
  return certificate
}

const publishSetStep: Step = {
  name: 'publish',
  run: async (rotation) => {
    const { installation, facts } = rotation
    const { members, stale, settled } = standbyOf(facts)
    const items = standbyItems(installation.dataDir, members.map(madeMember), new Date(facts.start))
    return await change(rotation, [
      ...(settled ? [] : await settlement(installation)),
      // It never signed anything.
      ...stale.map((id) => ({ op: 'set' as const, id, state: 'revoked' as const })),
      ...items.map((item) => ({ op: 'add' as const, item: jsonOfItem(item) })),
    ])
  },
}

const recordStep: Step = {
  name: 'record',
  run: async ({ installation, facts }) => {
    const { agent, members, stale } = standbyOf(facts)
    const made = members.map(madeMember)
    const before = readStandbyPlan(installation.dataDir)
    if (before !== undefined) forget(installation, before.agent, stale)
    const kept = (before?.members ?? []).filter(
      ({ name }) => !stale.includes(name) && !made.some((member) => member.name === name),
    )
    writeStandbyPlan(installation.dataDir, { schemaVersion: 1, agent, members: [...kept, ...made], inService: [] })
    return undefined
  },
}

/** Keys that nobody needs any more leave their agent's configuration. */
function forget({ dataDir, resolve }: Installation, agent: string, names: readonly string[]): void {
  const path = resolve(agent)
  if (!existsSync(path)) return
  editAgentFile({ dataDir, agent: path }, (document) => {
    for (const name of names) for (const key of [name, `${name}-witness`]) dropKey(document, key)
  })
}

export const standbySet: RotationPlan = {
  plan,
  steps: [tokenStep, settleStep, keysStep, certificatesStep, agentStep, publishSetStep, recordStep],
  // Nothing of it signs.
  isSwitched: () => false,
}
