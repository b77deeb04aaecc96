/** Operators of a ceremony with keys of each kind, for tests: ssh-keygen's, minisign's, and one on an HSM. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { withAdminAgent } from '../agents.ts'
import type { StatementKey } from './approval.ts'
import { makeMachine } from './machine.fixture.ts'

export interface Somebody {
  readonly name: string
  /** The field of a plan that has the public key. */
  readonly field: 'ssh' | 'minisign' | 'pkcs11'
  readonly publicKey: string
  readonly key: StatementKey
}

export function personWithSsh(folder: string, name: string): Somebody {
  mkdirSync(folder, { recursive: true })
  const file = join(folder, name)
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', file])
  const [type = '', key = ''] = readFileSync(`${file}.pub`, 'utf8').split(' ')
  return { name, field: 'ssh', publicKey: `${type} ${key}`, key: { ssh: file } }
}

export function personWithMinisign(folder: string, name: string): Somebody {
  mkdirSync(folder, { recursive: true })
  const [open, secret] = [join(folder, `${name}.pub`), join(folder, `${name}.key`)]
  execFileSync('minisign', ['-G', '-W', '-f', '-p', open, '-s', secret], { stdio: 'ignore' })
  const publicKey = readFileSync(open, 'utf8').split('\n')[1] ?? ''
  return { name, field: 'minisign', publicKey, key: { minisign: secret } }
}

/** With a token and an agent of their own in `folder`. */
export async function personWithHsm(folder: string, name: string): Promise<Somebody> {
  const machine = await makeMachine([name], folder)
  const reach = { dataDir: folder, agent: name }
  const publicKey = await withAdminAgent(reach, async (admin) => {
    const made = await admin.generateKey({ token: name, label: 'approvals', kind: 'P-256' })
    const spki = Buffer.from(made.spkiDer).toString('base64')
    const document = parseDocument(readFileSync(machine.agentPath(name), 'utf8'))
    const entry = { uri: made.uri, token: name, spki, kind: made.kind, purposes: ['ceremonyStatement'] }
    document.setIn(['keys', 'approvals'], document.createNode(entry))
    writeFileSync(machine.agentPath(name), document.toString())
    return spki
  })
  return { name, field: 'pkcs11', publicKey, key: { agent: reach, key: 'approvals' } }
}
