import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { HELP } from './help.ts'
import { COMMANDS } from './main.ts'

function chancery(...words: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(import.meta.dirname, 'main.ts'), ...words], {
    encoding: 'utf8',
    cwd: '/tmp',
  })
}

test('help names every command, fits 80 columns, and is what is printed without one', () => {
  for (const name of Object.keys(COMMANDS)) expect(HELP).toMatch(new RegExp(`^ {2}(chancery )?${name} `, 'm'))
  for (const line of HELP.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80)
  expect(chancery()).toMatchObject({ status: 0, stdout: HELP, stderr: '' })
  expect(chancery('--help')).toMatchObject({ status: 0, stdout: HELP, stderr: '' })
})

test.each(Object.keys(COMMANDS))('%s explains itself', (name) => {
  const asked = chancery(name, '--help')
  expect(asked).toMatchObject({ status: 0, stderr: '' })
  expect(asked.stdout).toContain(`Usage: chancery ${name}`)
})

test.each([
  [['nope'], 'there is no command "nope"; see: chancery --help'],
  [['constructor'], 'there is no command "constructor"'],
  [['sign'], "required option '--bundle <file>' not specified"],
  [['verify', 'a', 'b'], 'error'],
  [['dev', 'nope'], 'nope'],
  [['status', '--nope'], "unknown option '--nope'"],
  [['sign', 'f', '--bundle=b', '--identity-token=t', '--mirror=m', '--rekor=3'], 'it is 1 or 2'],
])('what is not understood is exit status 2: %j', (words, said) => {
  const { status, stdout, stderr } = chancery(...words)
  expect([status, stdout]).toEqual([2, ''])
  if (said !== 'error') expect(stderr).toContain(said)
  expect(stderr.trimEnd().split('\n').length).toBeLessThanOrEqual(2)
})

test('the help that is named is that of the very command', () => {
  expect(chancery('key', 'kek', 'share', 'online').stderr).toContain('See: chancery key kek share --help\n')
})

test('a configuration that is not there is exit status 2', () => {
  for (const words of [['status'], ['serve', '--check'], ['log', 'freeze', 'rekor-v2']]) {
    expect(chancery(...words, '--data', '/nowhere')).toMatchObject({ status: 2, stdout: '' })
  }
})

test('a failure is one line without a stack, and --debug shows it', () => {
  const words = ['dev', 'token', '--data', '/nowhere']
  const { status, stdout, stderr } = chancery(...words)
  expect([status, stdout, stderr.split('\n').length]).toEqual([1, '', 2])
  expect(stderr).toMatch(/^chancery dev token: no development issuer is known in \/nowhere; start one with: /)
  expect(chancery(...words, '--debug').stderr).toMatch(/DevelopmentError: [^]*\n +at /)
})

test('the version is the package version', () => {
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8')) as {
    version: string
  }
  expect(chancery('--version').stdout).toBe(`chancery ${version}\n`)
})

test('an option behind a subcommand is the subcommand’s', () => {
  const said = chancery('backup', 'agent', '/tmp/nowhere', '--data', '/tmp/no-installation')
  expect(said.stderr).toContain('/tmp/no-installation/')
})

test('a reader that has seen enough is no fault', () => {
  const script = join(import.meta.dirname, 'main.ts')
  const said = spawnSync('sh', ['-c', `"${process.execPath}" "${script}" --help | true`], { encoding: 'utf8' })
  expect(said.stderr).toBe('')
})
