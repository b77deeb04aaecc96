/** What a client pins of an installation: addresses, origins and public keys, here from the agent's configuration. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'
import type { Endpoints } from '../e2e/stack.ts'
import type { Logs } from './whole-log-check.ts'

/** SubjectPublicKeyInfo, DER, by the name of the key. */
export function pinnedKeys(dataDir: string): Readonly<Record<string, { spkiDer: Buffer; origin: string }>> {
  const { keys } = parse(readFileSync(join(dataDir, 'agent', 'online.yaml'), 'utf8')) as {
    keys: Readonly<Record<string, { spki: string; origin?: string }>>
  }
  return Object.fromEntries(
    Object.entries(keys).map(([name, { spki, origin = '' }]) => [
      name,
      { spkiDer: Buffer.from(spki, 'base64'), origin },
    ]),
  )
}

export function pinnedLogs(dataDir: string, endpoints: Endpoints): Logs {
  const keys = pinnedKeys(dataDir)
  const key = (name: string) => keys[name] ?? { spkiDer: Buffer.alloc(0), origin: '' }
  return {
    rekorV1: endpoints.rekorV1,
    rekorV2: endpoints.rekorV2,
    ct: endpoints.ct,
    treeId: key('rekor-v1').origin.split(' - ')[1] ?? '',
    keys: { v1: key('rekor-v1'), v2: key('rekor-v2'), ct: key('ct') },
  }
}
