/**
 * Loaded before a command of ours (`node --import`): ends it with SIGKILL around one of its durable writes, each of which
 * is a rename. A point is named after the step that the journal of rotations has as its last: `key:1` is the first write
 * since the step `key` was begun. `CHANCERY_KILL_AT=before:key:1`; `CHANCERY_WRITES=FILE` only lists the points;
 * `CHANCERY_HOLD=FILE` makes FILE before the very first write and waits until it is gone.
 */
import fs, { appendFileSync, existsSync, readFileSync, type PathLike, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { z } from 'zod'

const [when, ...target] = (process.env['CHANCERY_KILL_AT'] ?? '').split(':')
const list = process.env['CHANCERY_WRITES']
const hold = process.env['CHANCERY_HOLD']
const asleep = new Int32Array(new SharedArrayBuffer(4))
const rename = fs.renameSync
const journal = z.object({ steps: z.array(z.object({ name: z.string() })) })
let step = 'plan'
let writes = 0

fs.renameSync = (from: PathLike, to: PathLike): void => {
  writes += 1
  const point = `${step}:${writes}`
  if (hold !== undefined && point === 'plan:1') {
    writeFileSync(hold, '')
    while (existsSync(hold)) Atomics.wait(asleep, 0, 0, 20)
  }
  if (list !== undefined) appendFileSync(list, `${point}\n`)
  if (point === target.join(':') && when === 'before') process.kill(process.pid, 'SIGKILL')
  rename(from, to)
  if (point === target.join(':') && when === 'after') process.kill(process.pid, 'SIGKILL')
  const path = String(to)
  if (!path.endsWith('/lifecycle/rotation.json') || !existsSync(path)) return
  const last = journal.parse(JSON.parse(readFileSync(path, 'utf8'))).steps.at(-1)?.name ?? 'plan'
  if (last !== step) writes = 0
  step = last
}
syncBuiltinESMExports()
