/** Each kind of rotation with its file. */
import { OperatorError } from '#alarms'
import type { RotationKind } from '../journal.ts'
import { ctLog } from './ct-log.ts'
import { issuingCa } from './issuing-ca.ts'
import { rekorV1 } from './rekor-v1.ts'
import { rekorV2 } from './rekor-v2.ts'
import { rootCa } from './root-ca.ts'
import type { RotationPlan } from './rotation.ts'
import { standbySet } from './standby-set.ts'
import { tsa } from './tsa.ts'

const PLANS: Readonly<Partial<Record<RotationKind, RotationPlan>>> = {
  'issuing-ca': issuingCa,
  'root-ca': rootCa,
  'ct-log': ctLog,
  'rekor-v1': rekorV1,
  'rekor-v2': rekorV2,
  tsa,
  standby: standbySet,
}

export function kindOf(kind: RotationKind): RotationPlan {
  const plan = PLANS[kind]
  if (plan === undefined) throw new OperatorError('rotation_impossible', `${kind} cannot be rotated`)
  return plan
}
