/**
 * Rekor v1: the next shard at the same address. Indexes run on, and the shards before it answer under their own keys, whose
 * public halves their configuration keeps: entries say when they were integrated, so the former window ends there.
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

export const rekorV1: RotationPlan = {
  plan: async (installation, wishes, now) =>
    await planShard(installation, activeLog(installation, 'rekor-v1'), { wishes, now }),
  steps: [
    keyStep,
    shardAgentStep,
    publishStep(shardItem('rekor-v1')),
    waitStep,
    shardSwitchStep,
    proveStep,
    endStep(shardEnds),
    shardRetireStep,
  ],
  isSwitched: isSucceeded,
}
