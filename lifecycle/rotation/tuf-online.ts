/**
 * The key of TUF snapshot and timestamp. One publication: the next root names the new key, and snapshot and timestamp are
 * signed by it together, so that no client meets one without the other. Clients take the root before anything else: there
 * is nothing to wait for. Until then the former key signs, which is also what recovers from a fast-forward attack.
 */
import { startingNow } from './authority.ts'
import { known } from './facts.ts'
import { keyStep, nextFreeName, plannedLike, retireStep, signerOf } from './keys.ts'
import { proveStep } from './prove.ts'
import type { RotationPlan, Step } from './rotation.ts'
import { assign, isInServedRoot, rolesOf, servedTuf, tufAgentStep, tufProveStep } from './tuf.ts'

const publishStep: Step = {
  name: 'publish',
  run: async (rotation) => {
    const { installation, facts, keep, now } = rotation
    const roles = await rolesOf(installation)
    const pause = await assign(rotation, { ...roles, online: [signerOf(facts).name] })
    if (pause !== undefined) return pause
    keep({ switchedAt: now().toISOString() })
    return undefined
  },
}

export const tufOnline: RotationPlan = {
  plan: async (installation, wishes, now) => {
    const { root } = servedTuf(installation)
    const [former = known(installation.trustRoot, 'trust root').onlineKey] = (await rolesOf(installation)).online ?? []
    const name = await nextFreeName(installation, former)
    return {
      destroyOldKey: wishes.destroyOldKey ?? false,
      former: {
        keys: [{ name: former, side: 'services' }],
        keyid: known(root.roles.timestamp.keyids[0], 'key of the timestamp role'),
      },
      start: startingNow(now),
      keys: {
        signer: await plannedLike(installation, former, { name, side: 'services' }),
      },
    }
  },
  steps: [
    keyStep,
    tufAgentStep,
    publishStep,
    tufProveStep(({ root, signedBy }, { next, former }) => {
      const names = [...root.roles.snapshot.keyids, ...root.roles.timestamp.keyids]
      if (names.some((keyid) => keyid !== next))
        return `root ${root.version} names other keys for snapshot or timestamp`
      if (!signedBy.timestamp.includes(next)) return 'the timestamp is not signed by the new key'
      return signedBy.timestamp.includes(former) ? 'the timestamp is still signed by the former key' : undefined
    }, proveStep),
    retireStep,
  ],
  isSwitched: isInServedRoot,
}
