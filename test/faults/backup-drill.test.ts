/** The drill of docs/backup.md: a whole loss, timed. A million entries in the full run. */
import { expect, test } from 'vitest'
import { drill } from '../../bench/backup-drill.ts'
import { LONG } from './loaded-stack.ts'

const ENTRIES = LONG ? 1_000_000 : 20_000

test(`a log of ${ENTRIES} entries is backed up while it serves, lost, and restored whole`, {
  timeout: 3_600_000,
}, async () => {
  const said: string[] = []
  const times = await drill(ENTRIES, (line) => said.push(line))
  console.log(said.join('\n'))
  // What the night after costs does not grow with the log.
  expect(times.nextBackupWrittenBytes).toBeLessThan(times.backupBytes / 2)
})
