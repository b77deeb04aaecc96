/**
 * The whole stack whose token is in another process, behind `p11-kit server`, which is killed under load from all services:
 * what a network HSM's or a forwarded token's daemon does at night.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { initialise, type Stack, serve } from '../e2e/stack.ts'
import { type P11KitServer, serveByP11Kit } from '../support/modules/index.ts'
import { badAnswers, checkEverything, configure, LONG, type PatientLoad, startPatientLoad } from './loaded-stack.ts'

const KILLS = LONG ? 10 : 3

const scratch = mkdtempSync(join(tmpdir(), 'chancery-p11-kit-'))
const dataDir = join(scratch, 'data')
let peer: P11KitServer | undefined
let stack: Stack | undefined
let load: PatientLoad

beforeAll(async () => {
  await initialise(dataDir)
  const { modulePath, tokens } = parse(readFileSync(join(dataDir, 'agent/online.yaml'), 'utf8')) as {
    modulePath: string
    tokens: { online: { uri: string; pinFile: string; softhsmConf: string } }
  }
  const { uri, pinFile, softhsmConf } = tokens.online
  peer = await serveByP11Kit({
    folder: scratch,
    modulePath,
    moduleEnvironment: { SOFTHSM2_CONF: resolve(dataDir, 'agent', softhsmConf) },
    uri,
  })
  configure(dataDir, 'agent/online.yaml', { ...peer.module, tokens: { online: { uri, pinFile } } })
  stack = await serve(dataDir)
  load = await startPatientLoad(stack, join(scratch, 'load'))
  await load.progress(5)
})

afterAll(async () => {
  await stack?.stop()
  await peer?.stop()
  rmSync(scratch, { recursive: true, force: true })
})

test('killed again and again, and away for seconds: no request is lost, every signature holds, nothing is restarted', async () => {
  if (stack === undefined || peer === undefined) throw new Error('the stack did not start')
  const server = stack.server.pid
  for (let kill = 0; kill < KILLS; kill += 1) {
    await peer.restart()
    await load.progress(5)
  }
  await peer.stop()
  await delay(2000)
  await peer.restart()
  await load.progress(5)
  const { ledger, outcomes, ended } = await load.finish()
  expect(badAnswers(outcomes)).toEqual([])
  expect(ended).toMatchObject({ lost: 0, abandoned: 0 })
  expect(ended.refused).toBeGreaterThan(0)
  await checkEverything(stack, [ledger], { acknowledged: [], unanswered: [], timestamps: [], heads: [] })
  expect(stack.server).toMatchObject({ pid: server, exitCode: null })
})
