import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Alarms } from '#alarms'
import { parseConfig } from './config.ts'
import { parseLevel, watchDisk, type WatchedDisk } from './disk.ts'

describe('a level', () => {
  test.each([
    ['5%', { percent: 5 }],
    ['0.5 %', { percent: 0.5 }],
    ['512MiB', { bytes: 512 * 1024 * 1024 }],
    ['2 GiB', { bytes: 2 * 1024 ** 3 }],
    ['100B', { bytes: 100 }],
  ])('%s', (text, level) => expect(parseLevel(text)).toEqual(level))

  test.each(['', '5', '-5%', '51%', '100MB', '5 % of it', 'MiB', '1e3B', '5%%'])('%j is none', (text) => {
    expect(parseLevel(text)).toBeUndefined()
  })
})

describe('the configuration', () => {
  const text = (disk: string) => `profile: development
domain: test.example
agent: { spawn: agent.yaml }
admin: { socket: run/admin.sock }
disk: ${disk}`

  test('takes sizes and shares', () => {
    const { disk } = parseConfig(text('{ refuseUploadsBelow: 10%, refuseIssuanceBelow: 1GiB, slowSeconds: 5 }'), 'x')
    expect(disk).toEqual({
      refuseUploadsBelow: { percent: 10 },
      refuseIssuanceBelow: { bytes: 1024 ** 3 },
      slowSeconds: 5,
    })
  })

  test.each([
    ['{ refuseUploadsBelow: 5 apples }', /512MiB or 2GiB/],
    ['{ refuseUploadsBelow: 90% }', /512MiB or 2GiB/],
    ['{ refuseUploadsBelow: 1000 }', /refuseUploadsBelow/],
    ['{ slowSeconds: 0 }', /slowSeconds/],
    ['{ refuseReadsBelow: 1% }', /refuseReadsBelow/],
  ])('refuses %s', (disk, message) => {
    expect(() => parseConfig(text(disk), 'x')).toThrow(message)
  })
})

describe('a volume', () => {
  let folder: string
  let watch: WatchedDisk | undefined
  const alarms = new Alarms()
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'chancery-disk-'))
  })
  afterEach(() => {
    watch?.close()
    rmSync(folder, { recursive: true })
  })

  test('with room is sound, and one volume is told once whatever lies on it', async () => {
    const free = Number(execFileSync('stat', ['-f', '-c', '%a', folder]).toString())
    watch = await watchDisk(
      [folder, tmpdir()],
      { refuseUploadsBelow: { bytes: 0 }, refuseIssuanceBelow: { bytes: 0 } },
      alarms,
    )
    expect([watch.uploads(), watch.issuance()]).toEqual([undefined, undefined])
    expect(watch.volumes()).toHaveLength(1)
    expect(free).toBeGreaterThan(0)
    expect(alarms.active()).toEqual([])
  })

  test('below the higher level takes no uploads, below the lower one nothing', async () => {
    watch = await watchDisk(
      [folder],
      { refuseUploadsBelow: { bytes: 2 ** 60 }, refuseIssuanceBelow: { bytes: 0 } },
      alarms,
    )
    expect(watch.uploads()).toMatch(/nearly full/)
    expect(watch.issuance()).toBeUndefined()
    expect(alarms.active().map(({ code }) => code)).toEqual(['disk_low'])
    watch.close()
    watch = await watchDisk([folder], { refuseIssuanceBelow: { bytes: 2 ** 60 } }, alarms)
    expect(watch.uploads()).toMatch(/nearly full/)
    expect(watch.issuance()).toMatch(/nearly full/)
    expect(alarms.active().map(({ code }) => code)).toEqual(['disk_full'])
    watch.close()
    watch = await watchDisk([folder], { refuseUploadsBelow: { bytes: 0 }, refuseIssuanceBelow: { bytes: 0 } }, alarms)
    expect(alarms.active()).toEqual([])
  })

  test('that is not there counts as read-only', async () => {
    watch = await watchDisk([join(folder, 'gone')], {}, alarms)
    expect(watch.uploads()).toMatch(/read-only/)
    expect(alarms.active().map(({ code }) => code)).toEqual(['disk_read_only'])
    alarms.clear('disk_read_only', join(folder, 'gone'))
  })

  test('whose writes take long is told, also while one is still waited for', async () => {
    watch = await watchDisk([folder], { slowSeconds: 0 }, alarms)
    const done = watch.writing('rekor-v1')
    await watch.look()
    expect(alarms.active().filter(({ code }) => code === 'disk_slow')).toMatchObject([{ subject: 'rekor-v1' }])
    done()
  })
})
