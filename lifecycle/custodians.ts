/**
 * Custodians of the TUF root and targets on one machine, for development and tests: a token each with a PIN of its own,
 * and an agent of its own that no server starts. In production each of them has a machine, and a ceremony makes the keys.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { type GeneratedKey, type KeyKind, spawnAgent } from '#hsm'
import { createSoftTokens } from '#hsm/softhsm'
import { checkPayload, type Publication, type Roles, signPayload, tufKeyOf, type TrustRoot } from '#trust-root'
import { withAdmin } from './installation-agents.ts'

/** How many of how many must sign. */
export interface TufQuorum {
  readonly threshold: number
  /** Custodians; 2 to 9. */
  readonly count: number
}

/** Reads `2/3`; undefined for what is no quorum. One of one needs no custodians. */
export function parseTufQuorum(text: string): TufQuorum | undefined {
  const [, first, second] = /^([1-9])\/([2-9])$/.exec(text) ?? []
  const quorum = { threshold: Number(first), count: Number(second) }
  return first !== undefined && quorum.threshold <= quorum.count ? quorum : undefined
}

/** `custodian-1`, …: names of tokens, keys and agent files. */
export function custodianNames({ count }: TufQuorum): string[] {
  return Array.from({ length: count }, (_, at) => `custodian-${at + 1}`)
}

/** Makes their tokens, keys and `agent/custodian-N.yaml`; what roles.json says of them. */
export async function makeCustodians(
  dataDir: string,
  { quorum, kind = 'P-256' }: { readonly quorum: TufQuorum; readonly kind?: KeyKind | undefined },
): Promise<Roles> {
  const names = custodianNames(quorum)
  const soft = await createSoftTokens({
    folder: join(dataDir, 'hsm'),
    labels: names.map((name) => `chancery-${name}`),
  })
  const custodians: Roles['custodians'][number][] = []
  for (const [at, name] of names.entries()) {
    const token = soft.tokens[at]
    if (token === undefined) throw new TypeError(`no token for ${name} was made`)
    const base = {
      state: name,
      modulePath: soft.modulePath,
      tokens: { [name]: { uri: token.uri, pinFile: token.pinFile, softhsmConf: soft.confPath } },
      adminWhenSpawned: true,
    }
    const write = (more: object) =>
      writeFileSync(join(dataDir, `agent/${name}.yaml`), stringify({ ...base, ...more }, { lineWidth: 120 }), {
        mode: 0o600,
      })
    write({})
    const made = await withAdmin(dataDir, name, async (admin) => {
      return await admin.generateKey({ token: name, label: name, kind })
    })
    write({ keys: { [name]: keyEntry(made) } })
    custodians.push({
      name,
      holder: `agent/${name}.yaml`,
      key: tufKeyOf({ kind: tufKind(made), spkiDer: made.spkiDer }),
    })
  }
  const role = { threshold: quorum.threshold, custodians: names }
  return { custodians, root: role, targets: role }
}

/** Has what waits signed by as many custodians as it takes, each with an agent for the moment. */
export async function signAsCustodians(dataDir: string, trustRoot: TrustRoot, roles: Roles): Promise<Publication> {
  const payload = checkPayload(await trustRoot.payload(), new Date())
  const needed = Math.max(roles.root.threshold, roles.targets.threshold)
  const signatures: unknown[] = []
  for (const { name } of roles.custodians.slice(0, needed)) {
    const spawned = await spawnAgent({ configPath: join(dataDir, `agent/${name}.yaml`) })
    try {
      signatures.push(await signPayload(payload, spawned.agent, name))
    } finally {
      await spawned.close()
    }
  }
  return await trustRoot.merge(signatures)
}

function keyEntry({ uri, token, spkiDer, kind }: GeneratedKey) {
  const spki = Buffer.from(spkiDer).toString('base64')
  return { uri, token, spki, kind, purposes: ['tuf'], tufRoles: ['root', 'targets'] }
}

function tufKind({ kind }: GeneratedKey): 'P-256' | 'ed25519' {
  if (kind === 'P-256' || kind === 'ed25519') return kind
  throw new TypeError(`${kind} is no kind of TUF keys`)
}
