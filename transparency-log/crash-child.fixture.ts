/**
 * The process that `crash.test.ts` kills: a log that adds what it is told on standard input, one text a line, and prints
 * one line of JSON for each answer. Arguments: folder, fault point or `none`.
 */
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { makeAgentDouble } from './agent-double.fixture.ts'
import { textEntry } from './entries.fixture.ts'
import { FAULT_POINTS, killAt } from './fault-points.ts'
import { openLog } from './open.ts'

const [folder = '', wanted = ''] = process.argv.slice(2)
const point = FAULT_POINTS.find((name) => name === wanted)
const agent = makeAgentDouble({ stateFile: join(folder, 'agent.json') })
const log = await openLog({
  name: 'crash',
  kind: 'rekor-v1',
  origin: 'crash.example - 1',
  databasePath: join(folder, 'log.db'),
  agent,
  key: 'log',
  signEntry: (content, index, timestampMs) =>
    agent.set({ key: 'log', body: content.leaf, integratedTimeSeconds: timestampMs, logIndex: index }),
  ...(point === undefined ? {} : { faultPoint: killAt(point) }),
})
const say = (message: unknown): void => void process.stdout.write(`${JSON.stringify(message)}\n`)
const { size, note } = log.head()
say({ ready: true, size, note })
createInterface({ input: process.stdin }).on('line', (text) => {
  void log.add(textEntry(text)).then(({ index }) => say({ text, index, note: log.head().note }))
})
