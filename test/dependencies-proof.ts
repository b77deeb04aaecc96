/** What `scripts/dependencies-proof` runs; the rows are those of docs/dependencies.md. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { makeScratchCopy, type ScratchCopy } from './scratch-copy.ts'

interface Row {
  readonly name: string
  readonly file: string
  readonly test: string
}

const document = readFileSync(resolve(import.meta.dirname, '..', 'docs', 'dependencies.md'), 'utf8')
const wanted = process.argv.slice(2)
const rows = [...document.matchAll(/^\| `?([^`|]+?)`? \| `([^`]+\.ts)` \| `([^`]+\.test\.ts)` \|/gm)]
  .map(([, name = '', file = '', test = '']): Row => ({ name, file, test }))
  .filter(({ name }) => wanted.length === 0 || wanted.includes(name))
if (rows.length === 0) throw new Error('docs/dependencies.md has no such rows')

const copy = makeScratchCopy()
let failed = 0
try {
  const tests = [...new Set(rows.map(({ test }) => test))]
  console.log(`untouched, ${tests.length} test files must be green`)
  const untouched = copy.test(tests)
  if (!untouched.green) throw new Error(`they are not:\n${untouched.output}`)
  for (const row of rows) {
    const fault = prove(copy, row)
    if (fault !== undefined) failed += 1
    console.log(`${row.name}: ${fault ?? `${row.test} goes red without it`}`)
  }
} finally {
  copy.remove()
}
process.exitCode = failed === 0 ? 0 : 1

/** Why the row proves nothing, or undefined. */
function prove(scratch: ScratchCopy, { name, file, test }: Row): string | undefined {
  const path = join(scratch.folder, file)
  const source = readFileSync(path, 'utf8')
  const stubbed = name === 'SoftHSM' ? withoutModule(source) : withoutPackage(source, name, file)
  if (stubbed === source) return `${file} does not import it`
  writeFileSync(path, stubbed)
  try {
    return scratch.test([test]).green ? `${test} stays green without it` : undefined
  } finally {
    writeFileSync(path, source)
  }
}

/** SoftHSM is no import: the file looks for its module where none is. */
function withoutModule(source: string): string {
  return source.replaceAll('libsofthsm2.so', 'no-softhsm-here.so')
}

/** The file with every value that it imports from the package replaced by one that throws when it is used. */
function withoutPackage(source: string, name: string, file: string): string {
  const quoted = name.replaceAll(/[.*+?^${}()|[\]\\/]/g, String.raw`\$&`)
  const stub = `new Proxy(class {}, { get() { throw new Error(${JSON.stringify(`${name} is stubbed out in ${file}`)}) }, apply() { throw new Error('stub') }, construct() { throw new Error('stub') } }) as any`
  return source
    .replaceAll(new RegExp(`^import ((?:(?!^import )[^'])*?) from '${quoted}'$`, 'gm'), (statement, clause: string) => {
      if (clause.startsWith('type ')) return statement
      return bindings(clause)
        .map(({ kind, local, text }) =>
          kind === 'type' ? `import type { ${text} } from '${name}'` : `const ${local} = ${stub}`,
        )
        .join('; ')
    })
    .replaceAll(new RegExp(`import\\('${quoted}'\\)`, 'g'), `Promise.resolve(${stub})`)
    .replaceAll(new RegExp(`require\\('${quoted}'\\)`, 'g'), stub)
}

interface Binding {
  readonly kind: 'value' | 'type'
  readonly local: string
  readonly text: string
}

/** The names that an import clause binds: `a, { b, type C, d as e }` and `* as f`. */
function bindings(clause: string): Binding[] {
  const named = /\{([^}]*)\}/.exec(clause)?.[1] ?? ''
  const whole = clause
    .replace(/\{[^}]*\}/, '')
    .replaceAll(',', ' ')
    .trim()
  return [
    ...(whole === '' ? [] : [{ kind: 'value' as const, local: localName(whole), text: whole }]),
    ...named
      .split(',')
      .map((text) => text.trim())
      .filter((text) => text !== '')
      .map((text): Binding => {
        const isType = text.startsWith('type ')
        const bare = text.replace(/^type /, '')
        return { kind: isType ? 'type' : 'value', local: localName(bare), text: bare }
      }),
  ]
}

function localName(text: string): string {
  return text.split(/\s+as\s+/).at(-1) ?? text
}
