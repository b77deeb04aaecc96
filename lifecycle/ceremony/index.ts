/** Ceremonies: a reviewed plan, approvals by a quorum, what is made under it, and a transcript that anybody can check. */
export {
  checkStatement,
  formatSignedStatement,
  personNamed,
  readSignedStatement,
  type SignedStatement,
  signStatement,
  SSH_NAMESPACE,
  type StatementKey,
} from './approval.ts'
export { accountOf, fingerprintWords, wordsOf } from './account.ts'
export { readRequest } from './certificate-request.ts'
export { TEMPLATES, type Template, type TemplateChoices, templateText } from './templates.ts'
export { type CeremonyInstallation, type CeremonyInstalled, installFromCeremony } from './installation.ts'
export { checkNotExpired, type CeremonyPlan, type Person, readPlan, type ReadPlan } from './plan.ts'
export { makeOperatorKey } from './operator-key.ts'
export { type CeremonyProgress, progressOf, rehearse, runCeremony, type RunOptions } from './run.ts'
export { type CeremonyState, planOf, replay } from './replay.ts'
export { type Step, stepsOf } from './steps.ts'
export { readTranscript, TRANSCRIPT_FILE, type TranscriptLine } from './transcript.ts'
export { type VerifiedTranscript, verifyTranscript } from './verify.ts'
