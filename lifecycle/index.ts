/** What happens to an installation as a whole: its making; later its rotations and backups. */
export { custodianNames, makeCustodians, parseTufQuorum, signAsCustodians, type TufQuorum } from './custodians.ts'
export { createInstallation, InstallationError, isInstallation } from './installation.ts'
export { CHOSEN_KINDS } from './installation-agents.ts'
export { newTreeId, successorName } from './log-names.ts'
export { backUp, type BackupSources, type BackupStep, type FinishedBackup } from './backup.ts'
export { type BackupManifest, readManifest } from './backup-manifest.ts'
export { readAccount } from './recount.ts'
export { restore, type RestoreOptions, type Restored, type RestoreStep, verifyBackup } from './restore.ts'
export { type Reconciled, reconcile, type ReconcileSources, type ReconcileStep, USES } from './reconcile.ts'
export { serviceNames, standbyPorts, standbyServiceNames } from './layout.ts'
export { defaultPorts, freePorts, type Ports, takenPorts } from './ports.ts'
export { succeed, succeedingLog, type Succeeded, type SucceedOptions } from './succeed.ts'
export {
  bringIntoService,
  type Emergency,
  type EmergencyOptions,
  isEmergencyUnderWay,
  planEmergency,
  type PlannedEmergency,
} from './standby.ts'
export { awaitsAgent } from './standby-by-hand.ts'
export { settlement } from './standby-settle.ts'
export {
  ITEM_KINDS,
  nextName,
  readStandbyPlan,
  STANDBY_FILE,
  STANDBY_KINDS,
  type StandbyKind,
  type StandbyMember,
  type StandbyPlan,
} from './standby-plan.ts'
export { becomeOwnerOf } from './acting-user.ts'
export { replaceDurably } from './durable-file.ts'
export { adoptAgentState } from './adopt-state.ts'
export {
  agentNames,
  type AgentFile,
  type AgentReach,
  operatorError,
  readAgentFile,
  reloadAgent,
  whyNotOurs,
  withAdminAgent,
} from './agents.ts'
export {
  backupKeys,
  formatKeyBackup,
  type KeyBackup,
  parseKeyBackup,
  restoreKeys,
  type UnwrappedKey,
} from './key-backup.ts'
export {
  type AttributeFinding,
  judgeAttributes,
  type JudgedObject,
  judgeObjects,
  ORPHANS,
  spkiSha256,
  type Verdict,
} from './token-contents.ts'
export { type CertificateOfKey, certificatesOf, type KeyName, namesOfId } from './key-references.ts'
export { readRotations, ROTATION_KINDS, type RotationKind, type RotationRecord, type Rotations } from './journal.ts'
export * from './rotation/index.ts'
export { changesFor, type Cut, itemNamed, type PlannedCut } from './distrust.ts'
