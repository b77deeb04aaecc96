/** The agent of an installation as production has it: a folder of its own, a process of its own, a socket for each role. */
import {
  cpSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { parse, stringify } from 'yaml'

const ROLES = ['ca', 'log', 'timestamp', 'trust', 'audit'] as const

export interface MovedAgent {
  /** Its `agent.yaml`. */
  readonly config: string
  /** Of a role, or `admin`. */
  readonly socketOf: (name: string) => string
}

export interface Owner {
  readonly uid: number
  readonly gid: number
}

/**
 * The agent's state, configuration and PIN go to `home`, and the server gets the sockets. `owner`: who runs it, with a copy
 * of the tokens that they can read; ourselves, with the tokens where they are, unless told. `server`: who dials its sockets,
 * ourselves unless told. `certificatesPerMinute` is for the issuing CA.
 */
export function moveAgentOut(
  dataDir: string,
  home: string,
  {
    owner,
    server: dials,
    ...cap
  }: { readonly owner?: Owner; readonly server?: Owner; readonly certificatesPerMinute?: number } = {},
): MovedAgent {
  const config = join(home, 'agent.yaml')
  const socketOf = (name: string) => join(home, `${name}.sock`)
  const file = join(dataDir, 'agent/online.yaml')
  const document = parse(readFileSync(file, 'utf8')) as { keys: Record<string, { issuerCertificate?: string }> }
  const users = [dials?.uid ?? process.getuid?.()]
  mkdirSync(home)
  renameSync(join(dataDir, 'agent/online'), join(home, 'state'))
  renameSync(join(dataDir, 'hsm/chancery-online.pin'), join(home, 'online.pin'))
  cpSync(join(dataDir, 'ca/issuing-ca.pem'), join(home, 'issuing-ca.pem'))
  const softhsmConf = owner === undefined ? join(dataDir, 'hsm/softhsm2.conf') : copiedTokens(dataDir, home)
  const { 'issuing-ca': issuing, ...keys } = document.keys
  const changed = {
    ...document,
    state: 'state',
    tokens: { online: { uri: 'pkcs11:token=chancery-online', pinFile: 'online.pin', softhsmConf } },
    keys: { ...keys, 'issuing-ca': { ...issuing, issuerCertificate: 'issuing-ca.pem', ...cap } },
    sockets: {
      admin: socketOf('admin'),
      roles: Object.fromEntries(ROLES.map((role) => [role, { path: socketOf(role), users }])),
    },
  }
  writeFileSync(config, stringify(changed), { mode: 0o600 })
  rmSync(file)
  if (owner !== undefined) giveTo(home, owner)
  const server = join(dataDir, 'chancery.yaml')
  const { agent: _, ...rest } = parse(readFileSync(server, 'utf8')) as { agent: unknown }
  const sockets = Object.fromEntries(ROLES.map((role) => [role, socketOf(role)]))
  writeFileSync(server, stringify({ ...rest, agent: { sockets } }))
  return { config, socketOf }
}

/** The configuration of SoftHSM for a copy of the tokens in `home`. */
function copiedTokens(dataDir: string, home: string): string {
  cpSync(join(dataDir, 'hsm/tokens'), join(home, 'tokens'), { recursive: true })
  const text = `directories.tokendir = ${join(home, 'tokens')}\nobjectstore.backend = file\n`
  writeFileSync(join(home, 'softhsm2.conf'), text)
  return 'softhsm2.conf'
}

/** A folder with all that is in it. */
export function giveTo(path: string, owner: Owner): void {
  lchownSync(path, owner.uid, owner.gid)
  if (lstatSync(path).isDirectory()) for (const name of readdirSync(path)) giveTo(join(path, name), owner)
}
