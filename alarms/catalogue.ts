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
  // Anchors
  anchor_ahead: { exit: EXIT.integrity, severity: 'page', title: 'An anchor remembers more than the log has' },
  anchor_disagrees: { exit: EXIT.integrity, severity: 'page', title: 'An anchor holds another history of the log' },
  anchor_stale: {
    exit: EXIT.failed,
    severity: 'ticket',
    title: 'An anchor has taken no head for longer than configured',
  },
  anchor_distrusted: {
    exit: EXIT.integrity,
    severity: 'ticket',
    title: "An anchor's answer is not signed as it must be",
  },
  anchor_refused: { exit: EXIT.policy, severity: 'ticket', title: "An anchor does not take a log's heads" },
  anchor_required: { exit: EXIT.failed, severity: 'refusal', title: 'A required anchor cannot be asked at the start' },
  // The disk
  disk_low: { exit: EXIT.machine, severity: 'ticket', title: 'A volume is nearly full: no uploads are taken' },
  disk_full: { exit: EXIT.machine, severity: 'page', title: 'A volume is nearly full: nothing is written' },
  disk_read_only: { exit: EXIT.machine, severity: 'page', title: 'A volume cannot be written' },
  disk_io_error: { exit: EXIT.machine, severity: 'page', title: 'A disk failed to keep what was written' },
  disk_slow: { exit: EXIT.machine, severity: 'ticket', title: 'Writes wait long for the disk' },
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
