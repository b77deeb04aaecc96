/** The units of deploy/systemd, judged by systemd itself; nothing is started. */
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, describe, expect, test } from 'vitest'

const run = promisify(execFile)
const folder = join(import.meta.dirname, 'systemd')
const scratch = mkdtempSync(join(tmpdir(), 'chancery-units-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** Exposure from 0 (safe) to 10, as `systemd-analyze security` reckons it; versions of systemd differ in the last digit. */
async function exposureOf(path: string): Promise<number> {
  const { stdout } = await run('systemd-analyze', ['security', '--offline=true', '--no-pager', path])
  const found = /Overall exposure level for \S+: ([0-9.]+)/.exec(stdout)?.[1]
  if (found === undefined) throw new Error(`systemd-analyze told no exposure:\n${stdout}`)
  return Number(found)
}

describe.each([
  ['chancery-agent.service', 1],
  ['chancery.service', 1.6],
])('%s', (name, most) => {
  test(`is exposed at most ${most} of 10, and the document quotes what is found`, async () => {
    const exposure = await exposureOf(join(folder, name))
    expect(exposure).toBeLessThanOrEqual(most)
    const quoted = new RegExp(`\`${name.replace('.', '\\.')}\` \\| ([0-9.]+) `).exec(
      readFileSync(join(import.meta.dirname, 'README.md'), 'utf8'),
    )
    expect(Math.abs(Number(quoted?.[1]) - exposure), 'quoted in deploy/README.md').toBeLessThanOrEqual(0.2)
  })

  test('is a unit that systemd takes without a word', async () => {
    const copy = join(scratch, name)
    // Node.js is not where the unit expects it on the machine of the test; the other unit need not be there.
    const text = readFileSync(join(folder, name), 'utf8').replace(/^ExecStart=.*/m, 'ExecStart=/bin/true')
    writeFileSync(copy, text)
    const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', '--recursive-errors=no', copy])
    expect(`${stdout}${stderr}`).toBe('')
  })
})

test('an agent without its walls would be seen', async () => {
  const open = join(scratch, 'open.service')
  const text = readFileSync(join(folder, 'chancery-agent.service'), 'utf8')
  writeFileSync(open, text.replace(/^(PrivateNetwork|SystemCallFilter|CapabilityBoundingSet|ProtectSystem)=.*\n/gm, ''))
  expect(await exposureOf(open)).toBeGreaterThan(1.6)
})

test('the agent has no network, its own user, and nothing in common with the services but the sockets', () => {
  const settings = (name: string) =>
    new Map(
      readFileSync(join(folder, name), 'utf8')
        .split('\n')
        .flatMap((line) => (/^[A-Za-z]+=/.test(line) ? [line.split(/=(.*)/s).slice(0, 2) as [string, string]] : [])),
    )
  const agent = settings('chancery-agent.service')
  const services = settings('chancery.service')
  expect(agent.get('PrivateNetwork')).toBe('yes')
  expect(agent.get('RestrictAddressFamilies')).toBe('AF_UNIX')
  expect(agent.get('LimitCORE')).toBe('0')
  // In a user namespace of its own the kernel would tell it that every peer is nobody.
  expect(agent.has('PrivateUsers')).toBe(false)
  for (const name of ['User', 'Group', 'StateDirectory', 'RuntimeDirectory']) {
    expect(agent.get(name), name).not.toBe(services.get(name))
  }
})
