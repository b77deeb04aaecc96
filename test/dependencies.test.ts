import { globSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '..')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>
}
const program = globSync('**/*.ts', { cwd: root, exclude: ['**/node_modules', 'native/build', 'data'] })
  .filter((file) => !/(\.(test|fixture)|\/test-[^/]+)\.ts$|^(test|bench|deploy)\//.test(file))
  .map((file) => readFileSync(join(root, file), 'utf8'))

test.each(Object.keys(manifest.dependencies))('%s is imported by the program, not by its tests alone', (name) => {
  const specifier = new RegExp(`(from|import|import\\()\\s*'${name}(/[^']*)?'`)
  expect(program.some((source) => specifier.test(source))).toBe(true)
})

test('docs/dependencies.md proves every package that the project was asked to build on', () => {
  const askedFor = [
    'pkcs11js',
    '@peculiar/x509',
    '@peculiar/webcrypto',
    'asn1js',
    'jose',
    'openid-client',
    'koa',
    '@koa/router',
    'better-sqlite3',
    'merkletreejs',
    'vitest',
    'SoftHSM',
  ]
  const document = readFileSync(join(root, 'docs/dependencies.md'), 'utf8')
  const proven = [...document.matchAll(/^\| `?([^`|]+?)`? \| `[^`]+\.ts` \| `[^`]+\.test\.ts` \|/gm)].map(
    ([, name]) => name,
  )
  expect(new Set(proven)).toEqual(new Set(askedFor))
  expect(proven).toHaveLength(askedFor.length)
})
