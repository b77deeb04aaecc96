export { AdminError, askAdmin } from './admin.ts'
export { ConfigError, loadConfig, type LoadedConfig } from './config.ts'
export { type ServeOptions, type Server, serve } from './main.ts'
export type { ServiceState, Status } from './status.ts'
