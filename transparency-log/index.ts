export type * from './log.ts'
export { LogError } from './log.ts'
export { type LogKind, type LogLimits, type OpenLogOptions, openLog } from './open.ts'
export { type FaultHook, type FaultPoint, FAULT_POINTS, killAt } from './fault-points.ts'
