/** JSON lines on standard error: the agent loads no logger, so that fewer packages can reach its keys. */

export interface AgentLog {
  info(message: string, fields?: Readonly<Record<string, unknown>>): void
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void
  error(message: string, fields?: Readonly<Record<string, unknown>>): void
}

/** Levels as pino numbers them, so that whoever spawned the agent can pass its lines on. */
export const LEVELS = { info: 30, warn: 40, error: 50 } as const

export const agentLog: AgentLog = {
  info: (message, fields) => write(LEVELS.info, message, fields),
  warn: (message, fields) => write(LEVELS.warn, message, fields),
  error: (message, fields) => write(LEVELS.error, message, fields),
}

function write(level: number, msg: string, fields: Readonly<Record<string, unknown>> = {}): void {
  process.stderr.write(`${JSON.stringify({ level, time: Date.now(), name: 'hsm-agent', ...fields, msg })}\n`)
}
