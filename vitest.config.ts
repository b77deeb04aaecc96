import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'

const long = process.env['CHANCERY_LONG'] === '1'
const excluded = ['**/node_modules/**', 'native/build/**', ...(long ? [] : ['**/*.long.test.ts'])]

/** The tiers of `scripts/test`; each can be run alone with `vitest run --project NAME`. */
export default defineConfig({
  test: {
    // By default one core is left free for an editor; on two cores that is half of them.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    projects: [
      {
        test: {
          name: 'fast',
          include: ['**/*.test.ts'],
          exclude: [...excluded, '**/*.contract.test.ts', 'test/e2e/**', 'test/crash/**', 'test/faults/**'],
          testTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'contract',
          include: ['**/*.contract.test.ts'],
          exclude: excluded,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          globalSetup: ['test/e2e/global-setup.ts'],
          setupFiles: ['test/e2e/no-way-out.ts'],
          exclude: excluded,
          testTimeout: 300_000,
          hookTimeout: 300_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: 'crash',
          include: ['test/crash/**/*.test.ts'],
          setupFiles: ['test/e2e/no-way-out.ts'],
          exclude: excluded,
          testTimeout: 600_000,
          hookTimeout: 300_000,
          fileParallelism: false,
        },
      },
      {
        test: {
          name: 'faults',
          include: ['test/faults/**/*.test.ts'],
          setupFiles: ['test/e2e/no-way-out.ts'],
          exclude: excluded,
          testTimeout: 600_000,
          hookTimeout: 300_000,
          fileParallelism: false,
        },
      },
    ],
  },
})
