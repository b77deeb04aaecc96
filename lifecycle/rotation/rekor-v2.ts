/**
 * Rekor v2: the next shard is a log with a host, an origin and a key of its own. Signers are sent to it in the release that
 * ends the former one, since sigstore-python takes the last of several services of an operator; those with the signing
 * configuration of before are passed on by the former address. Its tiles stay readable for ever.
 */
import { logShard } from './log-shard.ts'

export const rekorV2 = logShard('rekor-v2')
