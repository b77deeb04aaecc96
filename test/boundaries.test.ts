import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { parseSync, type Program } from 'oxc-parser'
import { describe, expect, test } from 'vitest'

/**
 * The parts of the system (docs/architecture.md): an arrow only ever points down, and parts of the same layer do not
 * know each other. `packages` are the npm packages that the part may use; a package that is not listed is asked for
 * here first. Type-only imports count: they are what makes a part hard to take out.
 */
interface Part {
  readonly layer: number
  readonly packages: readonly string[]
  /** Parts that it may import; by default all of lower layers. */
  readonly own?: readonly string[]
  /** Runs in a browser too: nothing of Node. */
  readonly browser?: boolean
}

const parts: Readonly<Record<string, Part>> = {
  x509: { layer: 0, packages: [] },
  tlog: { layer: 0, packages: ['@noble/curves', '@noble/hashes'] },
  native: { layer: 0, packages: [] },
  alarms: { layer: 0, packages: [] },
  hsm: { layer: 1, packages: ['better-sqlite3', 'pino', 'pkcs11js', 'yaml', 'zod'] },
  oidc: { layer: 1, packages: ['jose', 'pino', 'prom-client'] },
  policy: { layer: 1, packages: ['yaml', 'zod'] },
  http: { layer: 1, packages: ['@koa/router', 'koa', 'pino', 'prom-client'] },
  ca: { layer: 2, packages: ['pino', 'prom-client'] },
  'transparency-log': {
    layer: 2,
    packages: ['@noble/curves', '@noble/hashes', 'better-sqlite3', 'canonicalize', 'pino', 'prom-client'],
  },
  timestamp: { layer: 2, packages: ['asn1js', 'pino', 'prom-client', 'zod'] },
  'trust-root': { layer: 2, packages: ['@tufjs/models', 'canonicalize', 'pino', 'prom-client', 'zod'] },
  verifier: { layer: 2, packages: ['@noble/curves'], own: ['x509', 'tlog'], browser: true },
  bundle: {
    layer: 2,
    packages: ['@sigstore/bundle', '@sigstore/protobuf-specs', '@sigstore/verify'],
    own: ['x509', 'tlog'],
  },
  lifecycle: { layer: 3, packages: ['better-sqlite3', 'pino', 'yaml', 'zod'] },
  server: { layer: 4, packages: ['pino', 'prom-client', 'yaml', 'zod'] },
  cli: {
    layer: 5,
    packages: [
      '@sigstore/bundle',
      '@sigstore/protobuf-specs',
      '@sigstore/sign',
      '@sigstore/tuf',
      '@sigstore/verify',
      'commander',
      'jose',
      'merkletreejs',
      'oidc-provider',
      'openid-client',
      'pino',
      'tuf-js',
      'yaml',
      'zod',
    ],
  },
}

/** Single files that may use more than their folder. */
const exceptions: Readonly<Record<string, readonly string[]>> = {
  // Roots and intermediates are issued by a library; never loaded by the agent (the closure is checked below).
  'hsm/ceremony.ts': ['@peculiar/webcrypto', '@peculiar/x509', 'reflect-metadata'],
}

/** Folders that hold no part of the system. They may import every part. */
const outside = ['deploy', 'scripts', 'test', 'bench', 'docs']

interface Import {
  readonly specifier: string
  readonly line: number
}

const root = resolve(import.meta.dirname, '..')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  imports: Record<string, string | Record<string, string>>
  dependencies: Record<string, string>
  devDependencies: Record<string, string>
}
const files = sourceFiles(root)

describe('boundaries', () => {
  test('every folder with code is a known part, and every part has code', () => {
    const found = new Set(files.filter((file) => file.includes(sep)).map((file) => partOf(file)))
    const unknown = [...found].filter((folder) => !(folder in parts) && !outside.includes(folder))
    expect(unknown).toEqual([])
    expect(Object.keys(parts).filter((part) => !found.has(part))).toEqual([])
  })

  test.each(Object.keys(parts))('%s imports only what stands below it, and only its packages', (part) => {
    expect(files.filter((file) => partOf(file) === part).flatMap((file) => violations(file))).toEqual([])
  })

  test('every npm package is told in docs/dependencies.md, and no other', () => {
    const told = [...readFileSync(join(root, 'docs/dependencies.md'), 'utf8').matchAll(/^\| `([^`]+)` \|/gm)]
    const names = Object.keys({ ...manifest.dependencies, ...manifest.devDependencies })
    expect(new Set(told.map(([, name]) => name))).toEqual(new Set(names))
    expect(told).toHaveLength(names.length)
  })

  test('every subpath import of package.json leads to a file', () => {
    const targets = Object.values(manifest.imports).flatMap((target) =>
      typeof target === 'string' ? [target] : Object.values(target),
    )
    expect(targets.map((target) => target.replace('./', '')).filter((target) => !files.includes(target))).toEqual([])
  })

  test('the agent reaches no web framework, no token library, no certificate library', () => {
    const reached = closure('hsm/agent.ts')
    expect([...reached.packages].filter((name) => !parts['hsm']?.packages.includes(name))).toEqual([])
    expect(reached.packages).toContain('pkcs11js')
    expect([...reached.parts].filter((part) => part !== 'hsm' && parts[part]?.layer !== 0)).toEqual([])
  })
})

describe('the check itself refuses', () => {
  test.each([
    ['ca/x.ts', "import { Koa } from 'koa'", 'package koa'],
    ['ca/x.ts', "import type { Log } from '#transparency-log'", 'same layer or above'],
    ['ca/x.ts', "export { listen } from '#server'", 'same layer or above'],
    ['ca/x.ts', "const { verify } = await import('#timestamp')", 'same layer or above'],
    ['ca/x.ts', "type T = import('#timestamp').Tsa", 'same layer or above'],
    ['ca/x.ts', "import { x } from '../x509/der.ts'", 'subpath import'],
    ['ca/x.ts', "import { x } from '#x509/der'", 'unknown subpath'],
    ['ca/x.ts', 'const x = await import(name)', 'computed'],
    ['x509/x.ts', "import { sha256 } from '#tlog'", 'same layer or above'],
    ['hsm/agent.ts', "import { X509Certificate } from '@peculiar/x509'", 'package @peculiar/x509'],
    ['verifier/x.ts', "import { createHash } from 'node:crypto'", 'browser'],
    ['verifier/x.ts', "import { connectAgent } from '#hsm'", 'may not import'],
    ['oidc/x.ts', "import { test } from 'vitest'", 'package vitest'],
    ['hsm/x.ts', "const koa = require('koa')", 'package koa'],
  ])('%s: %s', (file, source, words) => {
    expect(violations(file, source).join('\n')).toContain(words)
  })

  test.each([
    ['ca/x.ts', "import { x } from './y.ts'\nimport { join } from 'node:path'\nimport type { Logger } from 'pino'"],
    ['ca/x.test.ts', "import { test } from 'vitest'\nimport { x } from '../test/support/y.ts'"],
    ['hsm/ceremony.ts', "import { X509Certificate } from '@peculiar/x509'"],
    ['verifier/x.ts', "import { sha256 } from '#sha256'"],
  ])('but accepts %s: %s', (file, source) => {
    expect(violations(file, source)).toEqual([])
  })
})

function violations(file: string, source = readFileSync(join(root, file), 'utf8')): string[] {
  const part = partOf(file)
  const rule = parts[part]
  if (rule === undefined) return []
  const isTest = /(\.(test|fixture)|\/test-[^/]+)\.ts$/.test(file)
  return importsOf(file, source).flatMap(({ specifier, line }) => {
    const wrong = isTest
      ? refusedInTest(part, file, specifier)
      : refused(rule, part, file, specifier, exceptions[file] ?? [])
    return wrong === undefined ? [] : [`${file}:${line} ${specifier}: ${wrong}`]
  })
}

function refused(
  rule: Part,
  part: string,
  file: string,
  specifier: string,
  extra: readonly string[],
): string | undefined {
  if (specifier === '') return 'computed imports cannot be checked'
  if (specifier.startsWith('.')) {
    const path = relative(root, resolve(root, dirname(file), specifier))
    // What the program is called and which version it is stands there alone.
    if (path === 'package.json') return undefined
    return partOf(path) === part ? undefined : 'another folder is imported by its subpath import'
  }
  if (specifier.startsWith('#')) return refusedPart(rule, part, specifier)
  if (isBuiltin(specifier)) return rule.browser === true ? 'this part runs in a browser' : undefined
  const name = packageName(specifier)
  return rule.packages.includes(name) || extra.includes(name) ? undefined : `package ${name} is not this part's`
}

/** Tests live beside their subject and keep its place in the layers; oracles and tools of tests are free. */
function refusedInTest(part: string, file: string, specifier: string): string | undefined {
  const rule = parts[part]
  if (rule === undefined || specifier === '') return undefined
  if (specifier.startsWith('#')) return refusedPart({ ...rule, browser: false }, part, specifier)
  if (specifier.startsWith('.')) {
    const target = relative(root, resolve(root, dirname(file), specifier))
    if (partOf(target) === part || target.startsWith(join('test', 'support'))) return undefined
    return 'another folder is imported by its subpath import'
  }
  if (isBuiltin(specifier)) return undefined
  const name = packageName(specifier)
  return name in manifest.dependencies || name in manifest.devDependencies || allowedTransitively.includes(name)
    ? undefined
    : `package ${name} is not in package.json`
}

/** Comes with @peculiar/x509, which wants it imported first. */
const allowedTransitively = ['reflect-metadata']

function refusedPart(rule: Part, part: string, specifier: string): string | undefined {
  const file = resolveSubpath(specifier)
  if (file === undefined) return 'unknown subpath import'
  const target = partOf(file)
  if (target === part) return undefined
  const layer = parts[target]?.layer
  if (layer === undefined) return 'leads to no part of the system'
  if (layer >= rule.layer) return 'the same layer or above'
  return rule.own === undefined || rule.own.includes(target) ? undefined : `${part} may not import ${target}`
}

/** Everything that a file reaches through imports of our own code. */
function closure(start: string): { parts: Set<string>; packages: Set<string> } {
  const seen = new Set<string>()
  const packages = new Set<string>()
  const queue = [start]
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (seen.has(file)) continue
    seen.add(file)
    for (const { specifier } of importsOf(file, readFileSync(join(root, file), 'utf8'))) {
      if (specifier.startsWith('.')) queue.push(join(dirname(file), specifier))
      else if (specifier.startsWith('#')) queue.push(resolveSubpath(specifier) ?? `unknown ${specifier}`)
      else if (!isBuiltin(specifier)) packages.add(packageName(specifier))
    }
  }
  return { parts: new Set([...seen].map(partOf)), packages }
}

function resolveSubpath(specifier: string): string | undefined {
  const target = manifest.imports[specifier]
  const path = typeof target === 'object' ? target['node'] : target
  return path?.replace('./', '')
}

function importsOf(file: string, source: string): Import[] {
  const parsed = parseSync(file, source)
  const [error] = parsed.errors
  if (error !== undefined) throw new Error(`${file}: ${error.message}`)
  const found: Import[] = []
  visit(parsed.program, (node) => {
    const target = importTarget(node)
    if (target === undefined) return
    const line = source.slice(0, Number(node['start'])).split('\n').length
    found.push({ specifier: literal(target), line })
  })
  return found
}

type Node = Readonly<Record<string, unknown>>

/** The node that names what is imported, if this one imports. */
function importTarget(node: Node): unknown {
  switch (node['type']) {
    case 'ImportDeclaration':
    case 'ExportAllDeclaration':
    case 'ImportExpression':
      return node['source']
    case 'ExportNamedDeclaration':
      return node['source'] ?? undefined
    case 'TSImportType':
      return node['source'] ?? node['argument']
    case 'TSExternalModuleReference':
      return node['expression']
    case 'CallExpression': {
      const callee = node['callee']
      if (!isNode(callee) || callee['name'] !== 'require' || !Array.isArray(node['arguments'])) return undefined
      return node['arguments'][0]
    }
    default:
      return undefined
  }
}

/** The text of a literal; empty for anything that is computed. */
function literal(node: unknown): string {
  if (!isNode(node)) return ''
  if (node['type'] === 'TSLiteralType') return literal(node['literal'])
  const value = node['value']
  return typeof value === 'string' ? value : ''
}

function visit(node: Program | Node, each: (node: Node) => void): void {
  if (!isNode(node)) return
  each(node)
  for (const child of Object.values(node)) {
    for (const one of Array.isArray(child) ? (child as unknown[]) : [child]) if (isNode(one)) visit(one, each)
  }
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value
}

function isBuiltin(specifier: string): boolean {
  return specifier.startsWith('node:') || builtinModules.includes(specifier)
}

function packageName(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/')
}

function partOf(file: string): string {
  return file.split(sep)[0] ?? ''
}

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /\.[cm]?[jt]s$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter((file) => !/(^|\/)(node_modules|build|\.git|data)\//.test(file))
}
