/** What happens to an installation as a whole: its making; later its rotations and backups. */
export { createInstallation, InstallationError, isInstallation, newTreeId } from './installation.ts'
export { backUp, type BackupSources, type BackupStep, type FinishedBackup } from './backup.ts'
export { type BackupManifest, readManifest, verifyFiles } from './backup-manifest.ts'
export { defaultPorts, freePorts, type Ports, takenPorts } from './ports.ts'
