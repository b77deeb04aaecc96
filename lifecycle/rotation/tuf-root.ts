/**
 * The key of TUF root and targets of one custodian. The next root is signed by the thresholds of before and of now, and
 * targets by those of now; every root since the first stays where clients find it. A custodian whose token is elsewhere
 * makes the key there and sends its public half (`--public-key`).
 */
import { OperatorError } from '#alarms'
import { keyIdOf, type Roles } from '#trust-root'
import { startingNow } from './authority.ts'
import { type Facts, known } from './facts.ts'
import { keyStep, nextFreeName, plannedLike, retireStep } from './keys.ts'
import { proveStep } from './prove.ts'
import type { RotationPlan, Step } from './rotation.ts'
import { assign, hasKey, isInServedRoot, nextTufKey, rolesOf, tufAgentStep, tufKeyFrom, tufProveStep } from './tuf.ts'

/** Whose key goes. Throws `rotation_impossible` where that was not said. */
function custodianOf({ custodians }: Roles, name: string | undefined): Roles['custodians'][number] {
  const [first, second] = custodians
  const found = name === undefined && second === undefined ? first : custodians.find((each) => each.name === name)
  if (found !== undefined) return found
  const names = custodians.map((each) => each.name).join(', ')
  throw new OperatorError('rotation_impossible', `say whose key goes with --custodian; there are: ${names}`)
}

/** The roles with the next key where the former was, under a name of its own; the same person holds it. */
function withNextKey(roles: Roles, facts: Facts): Roles {
  const former = known(facts.former.custodian, 'custodian')
  const name = known(facts.nextCustodian, 'name of the next custodian')
  const key = nextTufKey(facts)
  const renamed = (names: readonly string[]) => names.map((each) => (each === former ? name : each))
  return {
    ...roles,
    custodians: roles.custodians.map((each) => (each.name === former ? { ...each, name, key } : each)),
    root: { ...roles.root, custodians: renamed(roles.root.custodians) },
    targets: { ...roles.targets, custodians: renamed(roles.targets.custodians) },
  }
}

const publishStep: Step = {
  name: 'publish',
  run: async (rotation) => {
    const { installation, facts, keep, now } = rotation
    const pause = await assign(rotation, withNextKey(await rolesOf(installation), facts))
    if (pause !== undefined) return pause
    keep({ switchedAt: now().toISOString() })
    return undefined
  },
}

export const tufRoot: RotationPlan = {
  plan: async (installation, wishes, now) => {
    const custodian = custodianOf(await rolesOf(installation), wishes.custodian)
    const isHere = hasKey(installation, 'root', custodian.name)
    const brought = wishes.publicKey === undefined ? undefined : tufKeyFrom(wishes.publicKey)
    const name = brought?.name ?? (await nextFreeName(installation, custodian.name))
    const common = {
      destroyOldKey: wishes.destroyOldKey ?? false,
      former: {
        keys: isHere ? [{ name: custodian.name, side: 'root' as const }] : [],
        custodian: custodian.name,
        keyid: keyIdOf(custodian.key),
      },
      nextCustodian: name,
      start: startingNow(now),
    }
    if (wishes.publicKey !== undefined) return { ...common, publicKey: wishes.publicKey, keys: {} }
    if (!isHere) {
      throw new OperatorError(
        'rotation_impossible',
        `the key of ${custodian.name} is not on a token here: make the next one there (chancery key gen), and bring its public half with --public-key`,
      )
    }
    const signer = await plannedLike(installation, custodian.name, { name, side: 'root' })
    return { ...common, keys: { signer } }
  },
  steps: [
    keyStep,
    tufAgentStep,
    publishStep,
    tufProveStep(({ root, signedBy }, { next, former }) => {
      if (root.keys[former] !== undefined) return `root ${root.version} still names the former key`
      if (root.keys[next] === undefined) return `root ${root.version} does not name the new key`
      const custodians = root.roles.targets.keyids
      const counted = signedBy.targets.filter((keyid) => custodians.includes(keyid)).length
      return counted < root.roles.targets.threshold ? 'targets are not signed by the threshold of now' : undefined
    }, proveStep),
    retireStep,
  ],
  isSwitched: isInServedRoot,
}
