import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')

/** A copy of the tree in which things may be broken; `node_modules` is shared, since nothing writes there. */
export interface ScratchCopy {
  readonly folder: string
  /** Runs test files in it; `green` if all of them passed. */
  test(files: readonly string[]): { readonly green: boolean; readonly output: string }
  remove(): void
}

export function makeScratchCopy(): ScratchCopy {
  const folder = mkdtempSync(join(tmpdir(), 'chancery-scratch-'))
  const skipped = ['node_modules', '.git', 'data'].map((name) => join(root, name))
  cpSync(root, folder, { recursive: true, filter: (source) => !skipped.includes(source) })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  return {
    folder,
    test: (files) => {
      const vitest = join('node_modules', '.bin', 'vitest')
      const { status, stdout, stderr } = spawnSync(
        vitest,
        ['run', '--project', 'fast', '--project', 'contract', '--bail=1', ...files],
        {
          cwd: folder,
          encoding: 'utf8',
          timeout: 300_000,
          // Not what a vitest that started us has told itself.
          env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST'))),
        },
      )
      return { green: status === 0, output: stdout + stderr }
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}
