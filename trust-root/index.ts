export { type CaughtUp, catchUpWithMirror } from './catch-up.ts'
export { type CanonicalValue, canonicalJson } from './canonical-json.ts'
export { changedInventory, changesSchema, type ItemChanges } from './change.ts'
export { type ClientTrustConfigJson, renderClientTrustConfig } from './client-trust-config.ts'
export { TrustRootError, type TrustRootErrorCode } from './errors.ts'
export { trustRootSection } from './http.ts'
export {
  BACKDATE_SECONDS,
  formatInventory,
  initialInventory,
  type InstallationParts,
  type Inventory,
  itemOf,
  itemSchema,
  jsonOfItem,
  parseInventory,
  readInventory,
  TIMESTAMP_PATH,
  type TrustItem,
  type TrustItemKind,
  type TrustItemState,
  TRUST_ITEM_STATES,
  writeInventory,
} from './items.ts'
export { type LegacyTarget, renderLegacyTargets } from './legacy-targets.ts'
export { type Finding, LintError, lintRelease } from './linter.ts'
export type { Custodian, PendingRole, PendingSummary, Publication, PublishedVersions } from './publication.ts'
export {
  type Canary,
  DEFAULT_TUF_KEYS,
  type PublishOptions,
  type PublishStep,
  type TufKeyNames,
  type WithRootAgent,
} from './options.ts'
export { DEFAULT_TUF_POLICY, type NearEnd, type TufPolicy } from './policy.ts'
export { type DiffSection, formatSections } from './describe.ts'
export type { TrustDiff } from './diff.ts'
export type { Withdrawn } from './merge.ts'
export { keyIdOf, type TufAgent, type TufKey, tufKeyOf } from './metadata.ts'
export {
  type CheckedPayload,
  checkPayload,
  type PayloadFile,
  type SignaturesFile,
  signPayload,
} from './payload.ts'
export { publish } from './publish.ts'
export {
  type CustodianKey,
  formatRoles,
  type OfflineRole,
  parseRoles,
  readRoles,
  type Roles,
  writeRoles,
} from './roles.ts'
export {
  type Release,
  renderRelease,
  SIGNING_CONFIG_REKOR_V2_TARGET,
  SIGNING_CONFIG_TARGET,
  TRUSTED_ROOT_TARGET,
} from './release.ts'
export { publishedInventory } from './published.ts'
export { servedFolder } from './repository.ts'
export { resignDue, type RoleStatus, type TrustRootStatus, trustRootStatus } from './resign.ts'
export { renderSigningConfig, type SigningConfigJson } from './signing-config.ts'
export { initTrustRoot, openTrustRoot, type TrustRoot, type TrustRootOptions } from './trust-root.ts'
export { hostOfOrigin, renderTrustedRoot, type TrustedRootJson } from './trusted-root.ts'
