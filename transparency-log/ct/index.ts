export { CtError, type CtErrorCode } from './errors.ts'
export { parseLeaf } from './leaf.ts'
export { type CtSectionOptions, ctSection } from './http.ts'
export { ctLogOf, ctSignEntry, type InProcessCtLog } from './submission.ts'
