/**
 * Every refusal and alarm that an operator may meet at night: its code, the exit status of a command that ends with it,
 * and how loud it is. Each code has a paragraph of the same name in docs/runbook.md (what happened, what it means, what
 * to do); a test walks both. Codes are for ever: dashboards and scripts keep them.
 */

/** What a command's exit status says; scripts may rely on it. */
export const EXIT = {
  done: 0,
  failed: 1,
  /** The command line or the configuration was not understood. */
  usage: 2,
  /** Somebody else holds it, or no server runs. */
  locked: 3,
  /** PIN, credential or permission; a latch. */
  authentication: 4,
  /** The HSM or its agent is away. */
  hsm: 5,
  /** Understood and refused. */
  policy: 6,
  /** Waits for a person: an approval or a confirmation. */
  approval: 7,
  /** Two histories, a rollback, a bad signature: evidence to keep. Nothing was changed. */
  integrity: 8,
  /** The disk, or the clock. */
  machine: 9,
} as const

export type ExitStatus = (typeof EXIT)[keyof typeof EXIT]

export interface Condition {
  readonly exit: ExitStatus
  /** `page`: wakes somebody. `ticket`: in working hours. `refusal`: only the one who asked sees it. */
  readonly severity: 'page' | 'ticket' | 'refusal'
  /** One line, without a full stop. */
  readonly title: string
}

/** One row a code, sorted by part. */
export const CATALOGUE = {
  // HSM and agent
  token_latched: { exit: EXIT.authentication, severity: 'page', title: 'A token refused its PIN and is latched' },
  key_latched: { exit: EXIT.authentication, severity: 'page', title: 'A key is latched' },
  agent_locked: { exit: EXIT.locked, severity: 'page', title: 'Another agent holds the state folder' },
  agent_away: { exit: EXIT.hsm, severity: 'page', title: 'The HSM agent does not answer' },
  // Logs
  fork_refused: { exit: EXIT.integrity, severity: 'page', title: 'A log and its guard disagree' },
  store_in_use: { exit: EXIT.locked, severity: 'page', title: 'Another process has the database of a log open' },
  // Backup and restore
  backup_overdue: { exit: EXIT.failed, severity: 'ticket', title: 'No backup was finished for longer than configured' },
  backup_incomplete: { exit: EXIT.integrity, severity: 'refusal', title: 'A folder is no finished backup' },
  backup_damaged: { exit: EXIT.integrity, severity: 'refusal', title: 'A backup is not what was backed up' },
  backup_target_exists: { exit: EXIT.policy, severity: 'refusal', title: 'The folder for the backup is not empty' },
  restore_over_running: { exit: EXIT.locked, severity: 'refusal', title: 'A server or agent still runs on the data' },
  restore_behind_guard: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'The backup ends before what the log has signed',
  },
  restore_other_history: { exit: EXIT.integrity, severity: 'refusal', title: 'Backup and guard hold two histories' },
  restore_other_key: { exit: EXIT.integrity, severity: 'refusal', title: 'The agent has another key for a log' },
  restore_without_guard: { exit: EXIT.integrity, severity: 'refusal', title: 'The agent remembers no head of a log' },
} as const satisfies Readonly<Record<string, Condition>>

export type Code = keyof typeof CATALOGUE
