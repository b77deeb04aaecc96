/**
 * Rekor v2: the next shard is a log with a host, an origin and a key of its own. Signers are sent to it in the release that
 * ends the former one, since sigstore-python takes the last of several services of an operator; those with the signing
 * configuration of before are passed on by the former address. Its tiles stay readable for ever.
 */
import { keyStep } from './keys.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitStep } from './publication.ts'
import type { RotationPlan } from './rotation.ts'
import {
  activeLog,
  isSucceeded,
  planShard,
  shardAgentStep,
  shardEnds,
  shardItem,
  shardRetireStep,
  shardSwitchStep,
} from './shard.ts'

export const rekorV2: RotationPlan = {
  plan: async (installation, wishes, now) =>
    await planShard(installation, activeLog(installation, 'rekor-v2'), { wishes, now }),
  steps: [
    keyStep,
    shardAgentStep,
    publishStep(shardItem('rekor-v2')),
    waitStep,
    shardSwitchStep,
    proveStep,
    endStep(shardEnds),
    shardRetireStep,
  ],
  isSwitched: isSucceeded,
}
