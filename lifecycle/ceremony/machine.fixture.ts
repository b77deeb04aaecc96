/** A machine of a ceremony, for tests: a data folder with SoftHSM tokens of its own and one agent file a token. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { spawnAgent, type SpawnedAgent } from '#hsm'
import { createSoftTokens } from '#hsm/softhsm'

export interface Machine {
  readonly dataDir: string
  /** RFC 7512 URIs by the tokens' names, with their serial numbers. */
  readonly uris: Readonly<Record<string, string>>
  agentPath(token: string): string
  /** Has its agents run until it is removed: each command is quicker then. */
  start(): Promise<void>
  remove(): Promise<void>
}

/** Tokens by the names of their agents. */
export async function makeMachine(tokens: readonly string[], dataDir?: string): Promise<Machine> {
  const folder = dataDir ?? mkdtempSync(join(tmpdir(), 'chancery-machine-'))
  mkdirSync(join(folder, 'agent'), { recursive: true, mode: 0o700 })
  const soft = await createSoftTokens({ folder: join(folder, 'hsm'), labels: tokens.map((name) => `chancery-${name}`) })
  const agentPath = (token: string) => join(folder, `agent/${token}.yaml`)
  mkdirSync(join(folder, 'run'), { recursive: true })
  const uris: Record<string, string> = {}
  const running: SpawnedAgent[] = []
  for (const [at, name] of tokens.entries()) {
    const token = soft.tokens[at]
    if (token === undefined) throw new TypeError(`no token ${name} was made`)
    const { uri, pinFile } = token
    uris[name] = uri
    const config = {
      state: name,
      modulePath: soft.modulePath,
      tokens: { [name]: { uri, pinFile, softhsmConf: soft.confPath } },
      keys: {},
      adminWhenSpawned: true,
      sockets: { admin: `../run/${name}.sock` },
    }
    writeFileSync(agentPath(name), stringify(config), { mode: 0o600 })
  }
  return {
    dataDir: folder,
    uris,
    agentPath,
    start: async () => {
      for (const name of tokens) running.push(await spawnAgent({ configPath: agentPath(name) }))
    },
    remove: async () => {
      await Promise.all(running.map((agent) => agent.close()))
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
