/** Rotations: `chancery rotate`. */
export { waitReasons } from './publication.ts'
export { type Facts, factsSchema, plannedKeys } from './facts.ts'
export { kindOf } from './kinds.ts'
export {
  abortRotation,
  type Installation,
  type Pause,
  planRotation,
  resumeRotation,
  rotate,
  type Rotated,
  type RotationOptions,
  type StepPhase,
  type WaitReason,
  type Wishes,
} from './rotation.ts'
export { pauseOf } from './standing.ts'
