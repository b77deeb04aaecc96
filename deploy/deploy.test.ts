import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { defaultPorts, standbyPorts } from '#lifecycle'
import { register as registerInit } from '../cli/init.ts'
import { register as registerServe } from '../cli/serve.ts'
import { readDockerfile, readDockerignore } from './container-files.ts'

const root = resolve(import.meta.dirname, '..')
const stages = readDockerfile(join(root, 'deploy/Dockerfile'))
const keeps = readDockerignore(join(root, '.dockerignore'))

interface Service {
  readonly command: string[]
  readonly build: { readonly context: string; readonly dockerfile: string; readonly target: string }
  readonly ports?: string[]
  readonly volumes: string[]
  readonly read_only: boolean
  readonly cap_drop: string[]
  readonly security_opt: string[]
  readonly privileged?: boolean
  readonly cap_add?: string[]
}

const compose = parse(readFileSync(join(root, 'docker-compose.yml'), 'utf8'), { merge: true }) as {
  services: Record<'init' | 'serve', Service>
  volumes: Record<string, unknown>
}

/** Every service, and the logs that stand by. */
const published = [...Object.values(defaultPorts), ...Object.values(standbyPorts(defaultPorts))]

function wordsOf(stage: string, name: string): string[] {
  const found = stages.find((one) => one.name === stage)
  if (found === undefined) throw new Error(`the Dockerfile has no stage ${stage}`)
  return found.instructions.filter((instruction) => instruction.name === name).map(({ words }) => words)
}

describe('Dockerfile', () => {
  test('ends in images that start from the runtime stage and run as nobody of importance', () => {
    expect(stages.map(({ name, from }) => [name, from])).toEqual([
      ['tools', 'debian:trixie-slim'],
      ['runtime', 'debian:trixie-slim'],
      ['production', 'runtime'],
      ['development', 'runtime'],
    ])
    expect(wordsOf('runtime', 'USER').at(-1)).toBe('chancery')
    expect(wordsOf('production', 'USER')).toEqual([])
    expect(wordsOf('development', 'USER').at(-1)).toBe('chancery')
  })

  test('installs compilers in the first stage only, and SoftHSM in the last only', () => {
    const holding = (word: string) =>
      stages.filter(({ name }) => wordsOf(name, 'RUN').some((words) => words.includes(word))).map(({ name }) => name)
    for (const tool of ['build-essential', 'python3', 'npm']) expect(holding(tool), tool).toEqual(['tools'])
    expect(holding('softhsm2')).toEqual(['development'])
  })

  test('exposes every port, has a health check on a live endpoint, stops by SIGTERM', () => {
    const exposed = wordsOf('runtime', 'EXPOSE').flatMap((words) => words.split(' ').map(Number))
    expect(new Set(exposed)).toEqual(new Set(published))
    expect(wordsOf('runtime', 'HEALTHCHECK').join(' ')).toContain(`127.0.0.1:${defaultPorts.metrics}/livez`)
    expect(wordsOf('runtime', 'STOPSIGNAL')).toEqual(['SIGTERM'])
  })

  test('copies only what exists and is in the build context', () => {
    const sources = stages
      .flatMap(({ name }) => wordsOf(name, 'COPY'))
      .filter((words) => !words.startsWith('--from='))
      .flatMap((words) => words.split(/\s+/).slice(0, -1))
    expect(sources.filter((source) => source !== '.' && !(existsSync(join(root, source)) && keeps(source)))).toEqual([])
  })
})

describe('build context', () => {
  test.each([
    'cli/main.ts',
    'native/chancery.c',
    'package-lock.json',
    'scripts/node',
    'deploy/image-packages',
    'lifecycle/index.ts',
  ])('holds %s', (path) => expect(keeps(path)).toBe(true))

  test.each([
    'data/hsm/online.pin',
    '.git/config',
    'node_modules/koa/package.json',
    'native/build/Release/chancery.node',
    'test/run.ts',
    'cli/audit.test.ts',
    'hsm/agent.fixture.ts',
    'policy/testdata/fulcio-config.yaml',
    'token',
    '.env',
  ])('does not hold %s', (path) => expect(keeps(path)).toBe(false))

  test('holds every folder with a part of the program', () => {
    const outside = ['bench', 'data', 'deploy', 'docs', 'node_modules', 'test']
    const parts = readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith('.') && !outside.includes(entry.name))
      .filter(({ name }) => readdirSync(join(root, name)).some((file) => file.endsWith('.ts')))
    expect(parts.filter(({ name }) => !keeps(`${name}/index.ts`)).map(({ name }) => name)).toEqual([])
  })
})

describe('docker-compose.yml', () => {
  test.each(Object.entries(compose.services))(
    '%s is confined, and builds what the Dockerfile has',
    (_name, service) => {
      expect(service).toMatchObject({ read_only: true, cap_drop: ['ALL'], security_opt: ['no-new-privileges:true'] })
      expect([service.privileged, service.cap_add]).toEqual([undefined, undefined])
      expect(service.volumes.map((volume) => volume.split(':')[0])).toEqual(Object.keys(compose.volumes))
      expect(existsSync(join(root, service.build.context, service.build.dockerfile))).toBe(true)
      expect(stages.map(({ name }) => name)).toContain(service.build.target)
    },
  )

  test('publishes every port on loopback, under the number that clients are told', () => {
    const expected = published.map((port) => `127.0.0.1:${port}:${port}`)
    expect(new Set(compose.services.serve.ports)).toEqual(new Set(expected))
  })

  test('binds all addresses inside, tells clients loopback, keeps an installation that is there', () => {
    expect(parsed(registerInit, compose.services.init.command)).toMatchObject({
      data: '/var/lib/chancery',
      host: '127.0.0.1',
      listenHost: '0.0.0.0',
      ports: 'usual',
      ifMissing: true,
    })
    expect(parsed(registerServe, compose.services.serve.command)).toMatchObject({ data: '/var/lib/chancery' })
  })
})

/** The options of a command line as the command itself reads them; throws for one that it does not know. */
function parsed(register: (program: Command) => void, words: readonly string[]): unknown {
  const program = new Command().exitOverride()
  register(program)
  const [command] = program.commands
  if (command === undefined) throw new Error('no command was registered')
  command.exitOverride().action(() => {})
  program.parse(words, { from: 'user' })
  return command.opts()
}
