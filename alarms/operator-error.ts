import { CATALOGUE, type Code, type ExitStatus } from './catalogue.ts'

/** A refusal that an operator reads. The message says what was found and what to do; never a PIN, token or key. */
export class OperatorError extends Error {
  readonly code: Code
  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'OperatorError'
    this.code = code
  }

  get exitStatus(): ExitStatus {
    return CATALOGUE[this.code].exit
  }

  /** Where the runbook tells more. */
  get anchor(): string {
    return `docs/runbook.md#${this.code}`
  }
}
