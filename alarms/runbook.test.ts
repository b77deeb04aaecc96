/** The catalogue, the runbook and the source tell of the same codes. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { CATALOGUE } from './index.ts'

const root = join(import.meta.dirname, '..')
const runbook = readFileSync(join(root, 'docs/runbook.md'), 'utf8')
const codes = Object.keys(CATALOGUE)

interface Section {
  /** Of the anchor directly above, or empty. */
  readonly anchor: string
  readonly title: string
  /** At the end of the title, or empty. */
  readonly code: string
  readonly body: string
}

const sections = runbook
  .split(/^(?=<a id="|## )/m)
  .slice(1)
  .reduce<{ found: Section[]; anchor: string }>(
    ({ found, anchor }, part) => {
      const id = /^<a id="([^"]+)"><\/a>/.exec(part)?.[1]
      if (id !== undefined) return { found, anchor: id }
      const [heading = '', ...body] = part.split('\n')
      const [, title = heading, code = ''] = /^## (.+) \(`([^`]+)`\)$/.exec(heading) ?? []
      return { found: [...found, { anchor, title, code, body: body.join('\n').trim() }], anchor: '' }
    },
    { found: [], anchor: '' },
  ).found

test.each(codes)('%s has one section with its anchor, and it says enough', (code) => {
  const own = sections.filter((section) => section.code === code)
  expect(own.length).toBe(1)
  expect(own[0]?.anchor).toBe(code)
  expect(own[0]?.body.length).toBeGreaterThan(60)
})

test('nothing in the runbook is of no code', () => {
  expect(sections.filter(({ code }) => !codes.includes(code)).map(({ title }) => title)).toEqual([])
  expect([...runbook.matchAll(/<a id="([^"]+)">/g)].map(([, id = '']) => id).toSorted()).toEqual(codes.toSorted())
})

/** Every file of the program but the catalogue itself. */
const sources = globSync(
  '{alarms,ca,cli,hsm,http,lifecycle,native,oidc,policy,server,timestamp,transparency-log,trust-root}/**/*.ts',
  {
    cwd: root,
    exclude: (name) => name.endsWith('.test.ts') || name.endsWith('.fixture.ts') || name === 'catalogue.ts',
  },
)
  .filter((file) => !/\.test\.ts$|\.fixture\.ts$|alarms\/catalogue\.ts$/.test(file))
  .map((file) => ({ file, text: readFileSync(join(root, file), 'utf8') }))

test.each(codes)('%s is said somewhere', (code) => {
  const said = new RegExp(`['"\`]${code}['"\`:]`)
  expect(sources.some(({ text }) => said.test(text))).toBe(true)
})

test('what is said is in the catalogue', () => {
  const said = /(?:OperatorError|alarms\??\.(?:raise|set|clear))\(\s*'([a-z_]+)'/g
  const strangers = sources.flatMap(({ file, text }) =>
    [...text.matchAll(said)].filter(([, code = '']) => !codes.includes(code)).map(([, code]) => `${file}: ${code}`),
  )
  expect(strangers).toEqual([])
  expect(sources.flatMap(({ text }) => [...text.matchAll(said)]).length).toBeGreaterThan(50)
})

test('links into the runbook have a target', () => {
  const linked = globSync('{docs,deploy}/**/*.md', { cwd: root })
    .map((file) => readFileSync(join(root, file), 'utf8'))
    .flatMap((text) => [...text.matchAll(/runbook\.md#([a-z_]+)/g)].map(([, code = '']) => code))
  expect(linked.filter((code) => !codes.includes(code))).toEqual([])
})
