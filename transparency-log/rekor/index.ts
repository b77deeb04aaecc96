export { rekorV1Section, type RekorV1Options } from './v1/http.ts'
export { rekorV1SignEntry } from './v1/sign-entry.ts'
export { rekorV2Section, type RekorV2Options } from './v2/http.ts'
export { type EntryChecks, type EntryChecksOptions, startEntryChecks } from './checks.ts'
