/**
 * Admission in Kubernetes without a cluster: the blocks of docs/kubernetes.md with this stack's values in them, and the
 * two programs that judge an image by them: Kyverno's command line and policy-controller's tester.
 */
import { readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { initTUF } from '@sigstore/tuf'
import { client, type Material } from './clients.ts'
import { freshFolder } from './context.ts'
import { run, succeeded } from './run.ts'
import { type Endpoints, ownEnvironment, projectFolder } from './stack.ts'

const document = readFileSync(join(projectFolder, 'docs', 'kubernetes.md'), 'utf8')

/** What stands in a block for `${NAME}`; a value of several lines keeps the indentation of its place. */
export type Values = Readonly<Record<string, string>>

/** Writes the block of this name, filled in, into a file; throws if there is none or a value is missing. */
export function blockFile(name: string, values: Values): string {
  const block = document.match(new RegExp(`<!-- block: ${name} -->\n\`\`\`yaml\n(.*?)\`\`\``, 's'))?.[1]
  if (block === undefined) throw new Error(`docs/kubernetes.md has no block ${name}`)
  return yamlFile(
    name,
    block.replaceAll(/^( *)(.*?)\$\{([A-Z0-9_]+)\}/gm, fill).replaceAll(/()()\$\{([A-Z0-9_]+)\}/g, fill),
  )

  function fill(_: string, indent: string, before: string, key: string): string {
    const value = values[key]
    if (value === undefined) throw new Error(`nothing is known for ${key}`)
    return `${indent}${before}${value.trim().replaceAll('\n', `\n${indent}`)}`
  }
}

/** Writes a file that a tool is given. */
export function yamlFile(name: string, content: string): string {
  const file = join(freshFolder('admission'), `${name}.yaml`)
  writeFileSync(file, content)
  return file
}

/** The values of the blocks, from the addresses and the mirror. */
export async function valuesOf(
  endpoints: Endpoints,
  material: Pick<Material, 'rootJson'>,
  where: { registry: string; subject: string; issuer: string },
): Promise<Record<string, string>> {
  const mirror = await initTUF({
    mirrorURL: endpoints.tuf,
    rootPath: material.rootJson,
    cachePath: freshFolder('mirror'),
    forceInit: true,
  })
  return {
    REGISTRY: where.registry,
    SUBJECT: where.subject,
    ISSUER: where.issuer,
    CA_URL: endpoints.ca,
    REKOR_URL: endpoints.rekorV1,
    TUF_MIRROR: endpoints.tuf,
    TUF_ROOT: readFileSync(material.rootJson).toString('base64'),
    ROOT_CERTIFICATE: await mirror.getTarget('fulcio.crt.pem'),
  }
}

/** Runs the commands of the document on this installation, and returns the folder that they wrote to. */
export async function runCommands(dataDir: string, values: Values): Promise<string> {
  const folder = freshFolder('exports')
  symlinkSync(dataDir, join(folder, 'data'))
  const commands = [...document.matchAll(/<!-- run -->\n```sh\n(.*?)```/gs)].map(([, block]) => block ?? '')
  if (commands.length === 0) throw new Error('docs/kubernetes.md has no commands')
  const script = `set -euo pipefail\nchancery() { '${join(projectFolder, 'scripts', 'chancery')}' "$@"; }\n`
  const env = ownEnvironment({ SUBJECT: values['SUBJECT'] ?? '', ISSUER: values['ISSUER'] ?? '' })
  succeeded(await run('bash', ['-c', script + commands.join('')], { cwd: folder, env }))
  return folder
}

export interface Verdict {
  readonly admitted: boolean
  /** All that was said about this image. */
  readonly words: string
}

/** Images by a name that a test gives them; the reference is by digest. */
export type Images = Readonly<Record<string, string>>

/**
 * `kyverno apply` of one policy to a pod for each image. `tufRoot` is the folder of its TUF client, which it fills and
 * goes on with, as the admission controller does in its own.
 */
export async function kyverno(policy: string, images: Images, tufRoot: string): Promise<Record<string, Verdict>> {
  const names = Object.keys(images)
  const pods = yamlFile('pods', names.map((name) => pod(name, images[name] ?? '')).join('---\n'))
  const report = ['--policy-report', '--output-format', 'json']
  const outcome = await client('kyverno', ['apply', policy, '--resource', pods, '--registry', ...report, '-v', '4'], {
    env: { TUF_ROOT: tufRoot },
  })
  const start = outcome.stdout.indexOf('{"kind"')
  if (start < 0) throw new Error(`${outcome.command}\ngave no report, but said:\n${outcome.text}`)
  const { results } = JSON.parse(outcome.stdout.slice(start)) as {
    results: { result: string; message: string; resources: { name: string }[] }[]
  }
  const log = logByImage(stripVTControlCharacters(outcome.stderr), images)
  const verdicts = names.map((name): [string, Verdict] => {
    const own = results.filter(({ resources }) => resources.some((resource) => resource.name === name))
    return [
      name,
      {
        admitted: own.length > 0 && own.every(({ result }) => result === 'pass'),
        words: [...own.map(({ message }) => message), ...(log.get(name) ?? [])].join('\n'),
      },
    ]
  })
  const all = verdicts.every(([, { admitted }]) => admitted)
  if (all !== (outcome.status === 0)) {
    throw new Error(`${outcome.command}\nended with ${outcome.status} against its own report:\n${outcome.text}`)
  }
  return Object.fromEntries(verdicts)
}

/** Its lines go image by image; one that names none is about that of the next line that does. */
function logByImage(text: string, images: Images): Map<string, string[]> {
  const lines = new Map<string, string[]>()
  let before: string[] = []
  for (const line of text.split('\n')) {
    before.push(line)
    const about = Object.entries(images).find(([, image]) => line.includes(image))
    if (about === undefined) continue
    lines.set(about[0], [...(lines.get(about[0]) ?? []), ...before])
    before = []
  }
  return lines
}

function pod(name: string, image: string): string {
  return `apiVersion: v1
kind: Pod
metadata:
  name: ${name}
  namespace: default
spec:
  containers:
    - name: app
      image: "${image}"
`
}

/** policy-controller's tester with one policy, and a TrustRoot unless the policy names none; an image at a time. */
export async function policyTester(
  files: { readonly policy: string; readonly trustRoot?: string },
  images: Images,
  tufRoot: string,
): Promise<Record<string, Verdict>> {
  const trust = files.trustRoot === undefined ? [] : ['-trustroot', files.trustRoot]
  const verdicts: Record<string, Verdict> = {}
  for (const [name, image] of Object.entries(images)) {
    const args = ['-policy', files.policy, ...trust, '-image', image, '-log-level', 'error']
    const { status, text } = await client('policy-tester', args, { env: { TUF_ROOT: tufRoot } })
    verdicts[name] = { admitted: status === 0, words: text }
  }
  return verdicts
}
