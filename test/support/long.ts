/**
 * The full set of `scripts/test --long`. What is only in it is not registered otherwise: a skipped test counts as a failure.
 * A file that is only in it is named `*.long.test.ts`.
 */
import { describe, test } from 'vitest'

export const LONG = process.env['CHANCERY_LONG'] === '1'

/** A test of long runs alone. */
export function longTest(name: string, body: () => Promise<void> | void): void {
  if (LONG) test(name, body)
}

/** A group of tests of long runs alone. */
export function longDescribe(name: string, body: () => void): void {
  if (LONG) describe(name, body)
}
