export {
  type ClientExport,
  EXPORT_CLIENTS,
  type ExportClient,
  type ExportFiles,
  type ExportPlace,
  renderExport,
} from './clients.ts'
export { type ImportedKit, importKit, type ImportOptions } from './import-kit.ts'
export { expiredRoles, type KitVersions, MAX_KIT_BYTES, type OpenedKit, openKit, packKit } from './kit.ts'
export { materialOf, type TrustMaterial } from './material.ts'
export { type PublishedTrust, readPublished } from './published.ts'
