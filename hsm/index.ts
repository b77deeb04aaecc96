/** The HSM as the rest of the system sees it: a client of the agent. Nothing here loads a PKCS#11 module. */
export * from './signing.ts'
export type * from './administration.ts'
export { connectAdminAgent, connectAgent, type AgentAddress, type ClientOptions } from './client.ts'
export { spawnAgent, type SpawnedAgent, type SpawnOptions } from './spawn.ts'
export { createSoftTokens, findSoftHsm, type SoftTokens } from './softhsm.ts'
export { connectRoleAgents, type RoleSocketPaths } from './role-agents.ts'
export { parseKeyUri } from './pkcs11-uri.ts'
