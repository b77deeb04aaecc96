/** Each kind of rotation with its file. */
import type { RotationKind } from '../journal.ts'
import { ctLog } from './ct-log.ts'
import { issuingCa } from './issuing-ca.ts'
import { rekorV1 } from './rekor-v1.ts'
import { rekorV2 } from './rekor-v2.ts'
import { rootCa } from './root-ca.ts'
import type { RotationPlan } from './rotation.ts'
import { standbySet } from './standby-set.ts'
import { tsa } from './tsa.ts'
import { tufOnline } from './tuf-online.ts'
import { tufRoot } from './tuf-root.ts'

const PLANS: Readonly<Record<RotationKind, RotationPlan>> = {
  'issuing-ca': issuingCa,
  'root-ca': rootCa,
  'ct-log': ctLog,
  'rekor-v1': rekorV1,
  'rekor-v2': rekorV2,
  tsa,
  'tuf-online': tufOnline,
  'tuf-root': tufRoot,
  standby: standbySet,
}

export function kindOf(kind: RotationKind): RotationPlan {
  return PLANS[kind]
}
