/**
 * The keys of a TUF repository on SoftHSM, behind real agents: one token for each custodian, in one agent, and one token
 * with the keys of snapshot and timestamp, in another. Both can run under a clock that the test sets.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { connectAgent, createSoftTokens, type SigningAgent, spawnAgent, type TufRole } from '#hsm'
import { startExternal } from '../../hsm/external-agent.fixture.ts'

/** Custodians' keys bear the names of their tokens. */
export const CUSTODIANS = ['alice', 'bob', 'carol', 'dave'] as const
/** One is in service, the other is its successor. */
export const ONLINE_KEYS = ['tuf-online', 'tuf-online-2'] as const

/** Enough on a busy machine; a test waits so long for an agent that it has stopped. */
const DEADLINE_MS = 3000

export interface TufKeys {
  /** Signs root and targets, with whichever custodian's key is named. */
  readonly custodians: SigningAgent
  /** Signs snapshot and timestamp. */
  readonly online: SigningAgent
  /** Ends the process of the online agent; whoever has `online` finds it again after `startOnline`. */
  stopOnline(): Promise<void>
  startOnline(): Promise<void>
  close(): Promise<void>
}

/** Makes the tokens below `folder`; `environment` is that of the agents' processes. */
export async function makeTufKeys(
  folder: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<TufKeys> {
  const soft = await createSoftTokens({ folder: join(folder, 'hsm'), labels: [...CUSTODIANS, 'online'] })
  const tokens = Object.fromEntries(
    soft.tokens.map(({ label, uri, pinFile }) => [label, { uri, pinFile, softhsmConf: soft.confPath }]),
  )
  const start = async (name: string, keyOn: readonly (readonly [string, string])[], tufRoles: readonly TufRole[]) => {
    const home = join(folder, name)
    mkdirSync(join(home, 'state'), { recursive: true, mode: 0o700 })
    const configPath = join(home, 'agent.yaml')
    const socket = join(home, 'agent.sock')
    const used = Object.fromEntries(keyOn.map(([, token]) => [token, tokens[token]]))
    const base = { state: join(home, 'state'), modulePath: soft.modulePath, tokens: used }
    const write = (more: object) => writeFileSync(configPath, stringify({ ...base, ...more }), { mode: 0o600 })
    write({ adminWhenSpawned: true })
    const maker = await spawnAgent({ configPath, admin: true })
    const keys: Record<string, object> = {}
    for (const [label, token] of keyOn) {
      const made = await maker.admin?.generateKey({ token, label, kind: 'P-256' })
      if (made === undefined) throw new TypeError('no admin channel')
      const spki = Buffer.from(made.spkiDer).toString('base64')
      keys[label] = { uri: made.uri, token, spki, kind: 'P-256', purposes: ['tuf'], tufRoles }
    }
    await maker.close()
    write({ keys, sockets: { signing: socket } })
    const begin = async () => await startExternal(configPath, undefined, environment)
    let process = await begin()
    const agent = await connectAgent({ socketPath: socket }, { deadlineMs: DEADLINE_MS })
    return {
      agent,
      stop: async () => await process.stop(),
      start: async () => {
        process = await begin()
      },
      close: async () => agent.close().then(() => process.stop()),
    }
  }
  const custodians = await start(
    'custodians',
    CUSTODIANS.map((name) => [name, name] as const),
    ['root', 'targets'],
  )
  const online = await start(
    'online',
    ONLINE_KEYS.map((name) => [name, 'online'] as const),
    ['snapshot', 'timestamp'],
  )
  return {
    custodians: custodians.agent,
    online: online.agent,
    stopOnline: online.stop,
    startOnline: online.start,
    close: async () => {
      await custodians.close()
      await online.close()
    },
  }
}
