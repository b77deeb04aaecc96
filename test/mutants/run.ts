/**
 * Seeds one fault after the other (`NN-name.patch`) into a scratch copy of the tree and runs the test that must notice.
 * A mutant passes if its patch applies and its test goes red; a test that was red before proves nothing, so every test
 * is first seen green without a patch. Started by `scripts/mutants [NAME...]`.
 */
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { z } from 'zod'

/** A fault and the test that must go red, as the head of its patch says. */
interface Mutant {
  readonly name: string
  readonly patch: string
  readonly fault: string
  readonly project: string
  readonly file: string
  /** Of the full name of a test, describe blocks included; at least one test must match, and one of them go red. */
  readonly pattern: RegExp
}

interface Test {
  readonly file: string
  readonly name: string
  readonly status: string
}

/** Of vitest's JSON report. */
const report = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
})

/** Two at once: most of a run is the start of vitest and, for the contract tier, of an HSM. */
const LANES = 2
/** A mutant may make a test hang; vitest's own limits end the test, this one ends vitest. */
const RUN_MS = 180_000
/** All named files of a tier, without a patch. */
const BASELINE_MS = 900_000

const root = resolve(import.meta.dirname, '..', '..')
const wanted = process.argv.slice(2)
const mutants = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.patch'))
  .filter((file) => wanted.length === 0 || wanted.some((name) => file.includes(name)))
  .toSorted()
  .map(readMutant)

const scratch = mkdtempSync(join(tmpdir(), 'chancery-mutants-'))
const outcomes = new Map<Mutant, string>()
const wholeFile = new Set<Mutant>()
try {
  const trees = Array.from({ length: LANES }, (_, lane) => copyTree(join(scratch, `tree-${lane}`)))
  const alone = await runBaseline(trees, mutants)
  // A test that goes on where the one before it ended is red by itself: its mutant is tried with the whole file.
  for (const mutant of mutants.filter((one) => !isGreen(one, alone))) wholeFile.add(mutant)
  const whole = wholeFile.size === 0 ? [] : await runBaseline(trees, [...wholeFile])
  for (const mutant of mutants) {
    const baseline = wholeFile.has(mutant) ? whole : alone
    const named = baseline.filter((test) => test.file === mutant.file && mutant.pattern.test(test.name))
    if (named.length === 0) tell(mutant, 'FAILED: no such test')
    else if (named.some(({ status }) => status !== 'passed')) tell(mutant, 'FAILED: red without the patch')
  }
  const queue = mutants.filter((mutant) => !outcomes.has(mutant))
  await Promise.all(
    trees.map(async (tree) => {
      for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
        tell(mutant, await tryMutant(mutant, tree))
      }
    }),
  )
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
const passed = [...outcomes.values()].filter((outcome) => outcome === 'red').length
console.log(`\n${passed} passed, ${mutants.length - passed} failed, 0 skipped`)
process.exitCode = passed === mutants.length && passed > 0 ? 0 : 1

/** A row of the table, as soon as it is known. */
function tell(mutant: Mutant, outcome: string): void {
  outcomes.set(mutant, outcome)
  console.log(`${mutant.name.padEnd(32)}  ${mutant.project.padEnd(8)}  ${outcome}  ${mutant.fault}`)
}

/** The head of a patch is `# the fault in words` and `# red: PROJECT FILE /PATTERN/`. */
function readMutant(file: string): Mutant {
  const patch = join(import.meta.dirname, file)
  const text = readFileSync(patch, 'utf8')
  const [, fault] = /^# (?!red:)(.+)$/m.exec(text) ?? []
  const [, project, test, pattern] = /^# red: (\S+) (\S+) \/(.+)\/$/m.exec(text) ?? []
  if (fault === undefined || project === undefined || test === undefined || pattern === undefined) {
    throw new Error(`${file} has no head: # the fault in words, # red: PROJECT FILE /PATTERN/`)
  }
  return { name: file.replace(/\.patch$/, ''), patch, fault, project, file: test, pattern: new RegExp(pattern) }
}

/** The files that git knows or would add, as they are now; packages and the addon are not built again. */
function copyTree(tree: string): string {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root })
  for (const file of listed.toString().split('\0')) {
    if (file === '' || !existsSync(join(root, file))) continue
    mkdirSync(dirname(join(tree, file)), { recursive: true })
    cpSync(join(root, file), join(tree, file))
  }
  symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'))
  cpSync(join(root, 'native', 'build'), join(tree, 'native', 'build'), { recursive: true })
  return tree
}

function isGreen({ file, pattern }: Mutant, tests: readonly Test[]): boolean {
  const named = tests.filter((test) => test.file === file && pattern.test(test.name))
  return named.length > 0 && named.every(({ status }) => status === 'passed')
}

/** The named tests of these without a patch, or their whole files: one run for each tier. */
async function runBaseline(trees: readonly string[], of: readonly Mutant[]): Promise<readonly Test[]> {
  const projects = [...new Set(of.map(({ project }) => project))]
  const runs = projects.map((project, at) => {
    const own = of.filter((mutant) => mutant.project === project)
    const files = new Set(own.map(({ file }) => file))
    const named = own.map((mutant) => (wholeFile.has(mutant) ? '.' : `(?:${mutant.pattern.source})`)).join('|')
    return vitest(trees[at % trees.length] ?? root, project, [...files], { named, limitMs: BASELINE_MS })
  })
  return (await Promise.all(runs)).flat()
}

async function tryMutant(mutant: Mutant, tree: string): Promise<string> {
  if (!patch(tree, mutant, [])) return 'FAILED: the patch does not apply'
  const tests = await vitest(tree, mutant.project, [mutant.file], {
    named: wholeFile.has(mutant) ? '.' : mutant.pattern.source,
    // In a whole file another test may go red before the one that is named.
    bail: !wholeFile.has(mutant),
    limitMs: RUN_MS,
  })
  if (!patch(tree, mutant, ['--reverse'])) throw new Error(`${mutant.name} cannot be taken back`)
  // A file that cannot be loaded has no tests: a patch must be a fault that runs, not a syntax error.
  if (tests.length === 0) return 'FAILED: the test did not run'
  const red = tests.some(({ name, status }) => mutant.pattern.test(name) && status === 'failed')
  return red ? 'red' : 'FAILED: nobody noticed'
}

function patch(tree: string, { patch }: Mutant, extra: readonly string[]): boolean {
  try {
    execFileSync('git', ['apply', '--recount', ...extra, patch], {
      cwd: tree,
      stdio: 'pipe',
      // The scratch copy is no repository; without this git would look for one above it and then skip the files.
      env: { ...process.env, GIT_CEILING_DIRECTORIES: dirname(tree) },
    })
    return true
  } catch {
    return false
  }
}

/** Runs test files and returns the tests that ran, with their status. */
async function vitest(
  tree: string,
  project: string,
  files: readonly string[],
  /** `named`: source of an expression; `bail`: the first that goes red is enough. */
  { named, bail = false, limitMs }: { readonly named: string; readonly bail?: boolean; readonly limitMs: number },
): Promise<readonly Test[]> {
  const output = join(scratch, `${crypto.randomUUID()}.json`)
  // Tests with the whole stack want a network namespace of their own, as scripts/test gives them.
  const [command = process.execPath, ...before] =
    project === 'fast' || project === 'contract' ? [process.execPath] : ['scripts/isolated', process.execPath]
  const child = spawn(
    command,
    [
      ...before,
      join('node_modules', 'vitest', 'vitest.mjs'),
      'run',
      '--project',
      project,
      '--reporter=json',
      `--outputFile.json=${output}`,
      // There the names of blocks and test are joined by ' > ', in the report by a space.
      '--testNamePattern',
      named.replaceAll(' ', '(?: > | )'),
      ...(bail ? ['--bail', '1'] : []),
      ...files,
    ],
    // A group of its own: what a test of a mutant left running is ended with it.
    { cwd: tree, stdio: 'ignore', detached: true },
  )
  const limit = setTimeout(() => child.kill('SIGKILL'), limitMs)
  await new Promise((settle) => {
    child.once('close', settle)
    child.once('error', settle)
  })
  clearTimeout(limit)
  endGroup(child.pid)
  if (!existsSync(output)) return []
  const { testResults } = report.parse(JSON.parse(readFileSync(output, 'utf8')))
  return testResults.flatMap(({ name, assertionResults }) =>
    assertionResults
      .filter(({ status }) => status === 'passed' || status === 'failed')
      .map(({ fullName, status }) => ({ file: relative(tree, name), name: fullName, status })),
  )
}

function endGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // Nothing was left of it.
  }
}
