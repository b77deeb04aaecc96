/**
 * Rekor v1: the next shard at the same address. Indexes run on, and the shards before it answer under their own keys, whose
 * public halves their configuration keeps: entries say when they were integrated, so the former window ends there.
 */
import { logShard } from './log-shard.ts'

export const rekorV1 = logShard('rekor-v1')
