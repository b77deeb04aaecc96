/** The rotation of a log, whichever kind it is: the next shard, with a key of its own, takes over from the former one. */
import type { LogKind } from '#transparency-log'
import { keyStep } from './keys.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitStep } from './publication.ts'
import type { RotationPlan, Step } from './rotation.ts'
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

/** `ended`: what is left to do once the former window has ended, before the former key goes. */
export function logShard(kind: LogKind, ended: readonly Step[] = []): RotationPlan {
  return {
    plan: async (installation, wishes, now) =>
      await planShard(installation, activeLog(installation, kind), { wishes, now }),
    steps: [
      keyStep,
      shardAgentStep,
      publishStep(shardItem(kind)),
      waitStep,
      shardSwitchStep,
      proveStep,
      endStep(shardEnds),
      ...ended,
      shardRetireStep,
    ],
    isSwitched: isSucceeded,
  }
}
