export {
  createTimestampAuthority,
  type TimestampAuthority,
  type TimestampAuthorityOptions,
  type TimestampChange,
  type TimestampChangeover,
} from './authority.ts'
export type { TimeSource } from './clock.ts'
export { TimestampError, type TimestampErrorCode } from './error.ts'
export { timestampSection } from './http.ts'
export { inspectTimestampResponse, type InspectedTimestamp } from './inspect.ts'
export { parseJsonRequest, parseRequest, type ImprintHash, type TimestampRequest } from './request.ts'
