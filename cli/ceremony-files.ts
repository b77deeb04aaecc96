/** The files that the commands of ceremonies read. */
import { readFileSync } from 'node:fs'
import { OperatorError } from '#alarms'
import type { ReadPlan, SignedStatement } from '#lifecycle/ceremony'

/** Reads a plan. Throws `ceremony_plan_invalid`. */
export async function planIn(file: string): Promise<ReadPlan> {
  const { readPlan } = await import('#lifecycle/ceremony')
  return readPlan(bytesIn(file))
}

/** Throws `ceremony_plan_invalid` for a file that is not there. */
export function bytesIn(file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    throw new OperatorError('ceremony_plan_invalid', `${file} cannot be read: ${String(error)}`, { cause: error })
  }
}

/** Files with approvals or witnesses' signatures. */
export async function statementsIn(files: readonly string[]): Promise<SignedStatement[]> {
  const { readSignedStatement } = await import('#lifecycle/ceremony')
  return files.map((file) => {
    try {
      return readSignedStatement(bytesIn(file).toString('utf8'))
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error
      throw new OperatorError(error.code, `${file}: ${error.message}`, { cause: error })
    }
  })
}
