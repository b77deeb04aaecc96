/** What `deploy/check` does; it has made a mount namespace for us. */
import { spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parse } from 'yaml'
import { type Instruction, readDockerfile, readDockerignore, type Stage } from './container-files.ts'

/** An image as far as it concerns us: a root folder and what its containers start with. */
interface Image {
  readonly root: string
  readonly environment: Record<string, string>
  user: string
  folder: string
  entrypoint: readonly string[]
  health: readonly string[]
}

const project = resolve(import.meta.dirname, '..')
const words = process.argv.slice(2)
const baseAt = words.indexOf('--base')
const givenBase = baseAt === -1 ? undefined : words.splice(baseAt, 2)[1]
const runOnly = words[0] === '--run-only'
if (runOnly) words.shift()
const work = resolve(words[0] ?? '/var/tmp/chancery-deploy-check')
const base = givenBase === undefined ? join(work, 'base') : resolve(givenBase)
const dataFolder = '/var/lib/chancery'

mkdirSync(work, { recursive: true })
if (!existsSync(join(base, 'bin'))) succeed(['debootstrap', '--variant=minbase', 'trixie', base])
const images = new Map<string, Image>()
for (const stage of readDockerfile(join(project, 'deploy/Dockerfile'))) images.set(stage.name, build(stage))
const development = found(images.get('development'), 'stage development')
inspect(development)
inspect(found(images.get('production'), 'stage production'))
await runAsComposed(development)
if (!runOnly) console.log('deploy/check: every step of the Dockerfile ran')
console.log("deploy/check: the compose file's commands ran in the image")

/** Follows one stage; throws at the first step that fails. */
function build(stage: Stage): Image {
  const from = images.get(stage.from)
  const root = join(work, stage.name)
  console.log(`deploy/check: stage ${stage.name}`)
  if (!runOnly) {
    rmSync(root, { recursive: true, force: true })
    succeed(['cp', '-a', '--reflink=auto', from?.root ?? base, root])
  }
  const image: Image = {
    root,
    environment: { ...(from?.environment ?? { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }) },
    user: from?.user ?? 'root',
    folder: from?.folder ?? '/',
    entrypoint: from?.entrypoint ?? [],
    health: from?.health ?? [],
  }
  if (from === undefined) bringNetwork(root)
  succeed(['mount', '-t', 'proc', 'proc', join(root, 'proc')])
  succeed(['mount', '--rbind', '/dev', join(root, 'dev')])
  try {
    for (const instruction of stage.instructions) follow(image, instruction)
  } finally {
    succeed(['umount', '--recursive', '--lazy', join(root, 'dev')])
    succeed(['umount', join(root, 'proc')])
  }
  return image
}

/** What an engine gives to a build: a resolver, and the certificates of a proxy that this machine sits behind. */
function bringNetwork(root: string): void {
  cpSync('/etc/resolv.conf', join(root, 'etc/resolv.conf'), { dereference: true })
  const own = '/usr/local/share/ca-certificates'
  if (existsSync(own)) cpSync(own, join(root, own), { recursive: true })
}

function follow(image: Image, { name, words: rest }: Instruction): void {
  const { root, environment } = image
  if (runOnly && (name === 'RUN' || name === 'COPY')) return
  switch (name) {
    case 'RUN':
      console.log(`  ${rest.length > 100 ? `${rest.slice(0, 97)}...` : rest}`)
      return enter(image, ['/bin/bash', '-o', 'pipefail', '-c', rest])
    case 'COPY':
      return copy(image, rest.split(/\s+/))
    case 'ENV':
      for (const pair of rest.split(/\s+/)) {
        const [key = '', ...value] = pair.split('=')
        environment[key] = value.join('=').replaceAll(/\$(\w+)/g, (_, known: string) => environment[known] ?? '')
      }
      return
    case 'WORKDIR':
      image.folder = rest
      return void mkdirSync(join(root, rest), { recursive: true })
    case 'USER':
      image.user = rest
      return
    case 'ENTRYPOINT':
      image.entrypoint = JSON.parse(rest) as string[]
      return
    case 'HEALTHCHECK':
      image.health = JSON.parse(rest.slice(rest.indexOf('['))) as string[]
      return
    case 'SHELL':
    case 'LABEL':
    case 'EXPOSE':
    case 'VOLUME':
    case 'STOPSIGNAL':
    case 'CMD':
      return
    default:
      throw new Error(`this check does not know ${name}`)
  }
}

function copy(image: Image, all: readonly string[]): void {
  const other = all[0]?.startsWith('--from=') === true ? images.get(all[0].slice('--from='.length)) : undefined
  const [target = '', ...sources] = all.filter((word) => !word.startsWith('--')).toReversed()
  const at = resolve(image.folder, target)
  for (const source of sources) {
    if (other === undefined)
      copyFromContext(image.root, source, { at, intoFolder: target.endsWith('/') || target === '.' })
    else {
      mkdirSync(join(image.root, at), { recursive: true })
      // Its content, hence the dot, which `join` would take away.
      succeed(['cp', '-a', `${join(other.root, source)}/.`, join(image.root, at)])
    }
  }
}

/** A folder's content goes into the target, a file too if the target ends in a slash; by git's list, filtered. */
function copyFromContext(root: string, source: string, { at, intoFolder }: { at: string; intoFolder: boolean }): void {
  const keeps = readDockerignore(join(project, '.dockerignore'))
  const isFolder = statSync(join(project, source)).isDirectory()
  const listed = succeed(['git', '-C', project, 'ls-files', '--cached', '--others', '--exclude-standard', '--', source])
  const files = listed.split('\n').filter((file) => file !== '' && keeps(file) && existsSync(join(project, file)))
  if (files.length === 0) throw new Error(`COPY ${source}: nothing of it is in the build context`)
  for (const file of files) {
    const name = isFolder ? (source === '.' ? file : file.slice(source.length + 1)) : intoFolder ? basename(file) : ''
    const target = join(root, at, name)
    mkdirSync(dirname(target), { recursive: true })
    cpSync(join(project, file), target)
  }
}

/** Runs a command in the image as its user. */
function enter(image: Image, command: readonly string[]): void {
  // npm sits behind the same proxy as we do.
  const proxied = existsSync('/usr/local/share/ca-certificates')
    ? { NODE_EXTRA_CA_CERTS: '/etc/ssl/certs/ca-certificates.crt' }
    : {}
  const environment = Object.entries({ HOME: '/root', ...proxied, ...image.environment })
  succeed([
    'chroot',
    `--userspec=${image.user}`,
    image.root,
    '/usr/bin/env',
    '-i',
    `--chdir=${image.folder}`,
    ...environment.map(([key, value]) => `${key}=${value}`),
    ...command,
  ])
}

/** What an image must not hold, and whom it runs as. */
function inspect({ root, user }: Image): void {
  if (user === 'root') throw new Error(`${root} runs as root`)
  for (const tool of ['gcc', 'cc', 'make', 'python3', 'npm', 'git']) {
    if (existsSync(join(root, 'usr/bin', tool))) throw new Error(`${root} holds ${tool}`)
  }
  const tests = readdirSync(join(root, 'opt/chancery'), { recursive: true, encoding: 'utf8' }).filter(
    (file) => !file.includes('node_modules') && /\.(test|fixture)\.ts$/.test(file),
  )
  if (tests.length > 0) throw new Error(`${root} holds tests: ${tests.join(' ')}`)
  console.log(`deploy/check: ${basename(root)}: ${succeed(['du', '-sh', root]).split('\t')[0]} with its base`)
}

/** `init`, `serve`, the health check, a signature, `init` again, SIGTERM: in namespaces, as the compose file says. */
async function runAsComposed(image: Image): Promise<void> {
  const compose = parse(readFileSync(join(project, 'docker-compose.yml'), 'utf8'), { merge: true }) as {
    services: Record<'init' | 'serve', { command: string[] }>
  }
  const volume = join(work, 'volume')
  rmSync(volume, { recursive: true, force: true })
  // An engine gives a new named volume the owner and mode of the image's folder.
  succeed(['cp', '-a', join(image.root, dataFolder), volume])
  const container = join(work, 'container.sh')
  writeFileSync(container, containerScript(image, volume))
  const inside = (command: readonly string[]) => ['bash', container, ...image.entrypoint, ...command]
  // One network namespace for all, as the containers' `exec` shares that of its service.
  const shell = spawn('unshare', ['--net', 'bash', '-c', 'ip link set lo up; echo up; exec sleep infinity'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await new Promise((up) => shell.stdout.once('data', up))
  const net = ['nsenter', `--net=/proc/${shell.pid}/ns/net`]
  try {
    for (const time of ['first', 'again']) {
      console.log(`deploy/check: init, ${time}`)
      succeed([...net, ...inside(compose.services.init.command)])
    }
    const [file = '', ...rest] = [...net, ...inside(compose.services.serve.command)]
    const server = spawn(file, rest, { stdio: ['ignore', 'ignore', 'inherit'] })
    const ended = new Promise<number | null>((settle) => server.once('close', settle))
    const health = [...net, 'bash', container, ...image.health]
    for (let tries = 0; spawnSync(health[0] ?? '', health.slice(1)).status !== 0; tries += 1) {
      if (tries > 60 || server.exitCode !== null) throw new Error('the health check never passed')
      await delay(500)
    }
    console.log('deploy/check: healthy')
    const sign = `set -euo pipefail; cd /tmp; exec 3>&1; eval "$(chancery clients --data ${dataFolder} --export)"
      echo hello > artifact; chancery dev token --data ${dataFolder} > token
      trust="--mirror $MIRROR --root-checksum $CHECKSUM --bundle bundle --trust-dir /tmp/trust"
      chancery sign artifact $trust --identity-token token
      chancery verify artifact $trust --certificate-identity dev@example.test --certificate-oidc-issuer $ISSUER
      ! touch /opt/chancery/x 2>/dev/null || { echo "the root is not read-only"; exit 1; }`
    process.stdout.write(succeed([...net, 'bash', container, 'bash', '-c', sign]))
    server.kill('SIGTERM')
    const status = await ended
    if (status !== 0) throw new Error(`the server ended with ${status} on SIGTERM`)
    console.log('deploy/check: stopped on SIGTERM with status 0')
  } finally {
    shell.kill('SIGKILL')
  }
}

/** A script that becomes its arguments in the image: read-only root, own /tmp, the volume, no capabilities. */
function containerScript(image: Image, volume: string): string {
  const environment = Object.entries({ ...image.environment, HOME: dataFolder })
    .map(([key, value]) => `${key}='${value}'`)
    .join(' ')
  return `set -euo pipefail
if [ "\${1:-}" != --inside ]; then exec unshare --mount --propagation private -- bash "$0" --inside "$@"; fi
shift
mount --bind -o ro ${image.root} ${image.root}
mount -t tmpfs -o mode=1777,size=64m tmpfs ${image.root}/tmp
mount -t proc -o ro proc ${image.root}/proc
mount --rbind /dev ${image.root}/dev
mount --bind ${volume} ${image.root}${dataFolder}
id=$(chroot ${image.root} id -u ${image.user})
exec chroot ${image.root} /usr/bin/setpriv --reuid="$id" --regid="$id" --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \\
  /usr/bin/env -i --chdir=${image.folder} ${environment} /bin/bash -c 'exec "$@"' - "$@"
`
}

function succeed([file = '', ...rest]: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(file, rest, { encoding: 'utf8', maxBuffer: 2 ** 28 })
  if (status !== 0)
    throw new Error(`${[file, ...rest].join(' ')} ended with ${status}:\n${stdout}${stderr}${error ?? ''}`)
  return stdout
}

function found<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`there is no ${what}`)
  return value
}
