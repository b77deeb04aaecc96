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
  // Isolation and capacity
  wrong_socket: { exit: EXIT.policy, severity: 'refusal', title: 'A service asked for what its socket does not have' },
  rate_capped: { exit: EXIT.policy, severity: 'ticket', title: 'The cap on certificates a minute is reached' },
  cap_not_raised: { exit: EXIT.policy, severity: 'refusal', title: 'A cap is raised, not lowered, by a command' },
  raise_too_long: { exit: EXIT.policy, severity: 'refusal', title: 'A cap is raised for an hour at most' },
  no_cap: { exit: EXIT.policy, severity: 'refusal', title: 'A key without certificates has no cap' },
  // Commands of tokens and keys
  pin_rotation_interrupted: {
    exit: EXIT.authentication,
    severity: 'ticket',
    title: "A change of a token's PIN was interrupted",
  },
  pin_refused: {
    exit: EXIT.authentication,
    severity: 'refusal',
    title: 'A token refused a PIN that a command gave it',
  },
  pin_count_low: { exit: EXIT.authentication, severity: 'refusal', title: 'A token remembers a wrong PIN' },
  pin_file_mode: { exit: EXIT.authentication, severity: 'refusal', title: 'A PIN file may be read by others' },
  pin_file_not_writable: { exit: EXIT.policy, severity: 'refusal', title: 'The new PIN cannot be kept' },
  pin_not_changed: { exit: EXIT.policy, severity: 'refusal', title: 'A token does not take the new PIN' },
  token_full: { exit: EXIT.hsm, severity: 'refusal', title: 'A token has no room for another key' },
  token_absent: { exit: EXIT.hsm, severity: 'page', title: 'A token is not there' },
  token_breaker_open: { exit: EXIT.hsm, severity: 'ticket', title: 'A token is away, and others sign for it' },
  key_unusable: { exit: EXIT.integrity, severity: 'page', title: 'A key on a token is not what was configured' },
  key_place_unusable: {
    exit: EXIT.integrity,
    severity: 'ticket',
    title: 'A key cannot be used on one of its tokens',
  },
  kind_not_offered: { exit: EXIT.policy, severity: 'refusal', title: 'A token makes no keys of this kind' },
  module_failed: { exit: EXIT.hsm, severity: 'refusal', title: 'A PKCS#11 module cannot be loaded or fails' },
  token_exists: { exit: EXIT.policy, severity: 'refusal', title: 'There is a token of this label already' },
  token_cannot_trust: { exit: EXIT.policy, severity: 'refusal', title: 'A token makes no trusted key-encryption key' },
  key_configured: { exit: EXIT.policy, severity: 'refusal', title: 'A key that is in use is not destroyed' },
  label_exists: { exit: EXIT.policy, severity: 'refusal', title: 'A token has a key of this label already' },
  not_extractable: {
    exit: EXIT.policy,
    severity: 'refusal',
    title: 'A key was made so that it never leaves its token',
  },
  wrap_without_trusted: { exit: EXIT.policy, severity: 'refusal', title: 'A key may be wrapped under any key' },
  no_kek: { exit: EXIT.policy, severity: 'refusal', title: 'A token has no key-encryption key' },
  kek_exists: { exit: EXIT.policy, severity: 'refusal', title: 'A token has a key-encryption key already' },
  kek_fingerprint: {
    exit: EXIT.approval,
    severity: 'refusal',
    title: "A key-encryption key's receiver is not confirmed",
  },
  unwrap_refused: { exit: EXIT.integrity, severity: 'refusal', title: 'A token does not unwrap a backup' },
  wrong_key: { exit: EXIT.integrity, severity: 'refusal', title: 'A backup holds another key than it says' },
  key_backup_damaged: { exit: EXIT.integrity, severity: 'refusal', title: 'A file is no backup of keys' },
  confirmation_needed: { exit: EXIT.approval, severity: 'refusal', title: 'Nothing was done: it needs --confirm' },
  no_such_agent: { exit: EXIT.usage, severity: 'refusal', title: 'There is no such agent' },
  agent_not_administrable: { exit: EXIT.usage, severity: 'refusal', title: 'An agent has no admin socket' },
  agent_not_allowed: { exit: EXIT.authentication, severity: 'refusal', title: "The agent is another user's" },
  // Logs
  fork_refused: { exit: EXIT.integrity, severity: 'page', title: 'A log and its guard disagree' },
  guard_behind: { exit: EXIT.integrity, severity: 'page', title: 'The agent remembers less than a log has signed' },
  store_replaced: { exit: EXIT.integrity, severity: 'page', title: "A log's files were exchanged under the server" },
  state_replaced: { exit: EXIT.integrity, severity: 'page', title: "The agent's state was exchanged under it" },
  state_copied: { exit: EXIT.integrity, severity: 'page', title: "The agent's state is a copy" },
  origin_in_use: { exit: EXIT.locked, severity: 'page', title: 'Another server writes a log with the same agent' },
  log_frozen: { exit: EXIT.policy, severity: 'refusal', title: 'A log is frozen' },
  log_damaged: { exit: EXIT.integrity, severity: 'page', title: 'A log is not what its heads say' },
  log_evidence: { exit: EXIT.integrity, severity: 'refusal', title: 'Evidence contradicts what is to be adopted' },
  no_such_log: { exit: EXIT.usage, severity: 'refusal', title: 'There is no such log' },
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
  // The account of key uses
  reconcile_gap: { exit: EXIT.integrity, severity: 'page', title: 'A key was used and nobody knows for what' },
  account_rolled_back: {
    exit: EXIT.integrity,
    severity: 'page',
    title: 'The account of key uses is shorter than what was signed of it',
  },
  account_damaged: { exit: EXIT.integrity, severity: 'refusal', title: 'An account of key uses does not hold' },
  account_untold: { exit: EXIT.usage, severity: 'refusal', title: 'Nobody here tells of the account of key uses' },
  // The clock
  clock_stepped: {
    exit: EXIT.machine,
    severity: 'page',
    title: 'The clock was stepped: nothing that states a time is signed',
  },
  time_sources_disagree: { exit: EXIT.machine, severity: 'ticket', title: 'Time sources do not agree with the clock' },
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
  // Ceremonies
  ceremony_plan_invalid: { exit: EXIT.usage, severity: 'refusal', title: 'A plan of a ceremony cannot be used' },
  ceremony_plan_expired: { exit: EXIT.policy, severity: 'refusal', title: 'A plan of a ceremony has expired' },
  ceremony_approval_refused: { exit: EXIT.policy, severity: 'refusal', title: 'An approval does not count' },
  ceremony_quorum: { exit: EXIT.approval, severity: 'refusal', title: 'Too few operators have approved' },
  ceremony_awaiting: { exit: EXIT.approval, severity: 'refusal', title: 'A ceremony goes on elsewhere first' },
  ceremony_underway: { exit: EXIT.locked, severity: 'refusal', title: 'Another command works on this ceremony' },
  ceremony_tool_missing: { exit: EXIT.failed, severity: 'refusal', title: 'A program for signatures is not installed' },
  ceremony_token_mismatch: { exit: EXIT.policy, severity: 'refusal', title: 'A token is not the one of the plan' },
  ceremony_key_exists: { exit: EXIT.policy, severity: 'refusal', title: 'A token has a key of this name already' },
  ceremony_key_unfit: { exit: EXIT.integrity, severity: 'refusal', title: 'A token made a key that must not be used' },
  ceremony_transcript_damaged: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A transcript is not as it was written',
  },
  ceremony_transcript_wrong: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A transcript tells of what the plan does not allow',
  },
  ceremony_transcript_unfinished: { exit: EXIT.approval, severity: 'refusal', title: 'A ceremony has not ended' },
  ceremony_witness_refused: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A witness did not sign this transcript',
  },
  ceremony_not_logged: { exit: EXIT.integrity, severity: 'refusal', title: 'A transcript is not shown to be logged' },
  ceremony_request_refused: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A request for a certificate is not sound',
  },
  ceremony_certificate_refused: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A certificate of an authority is not what was asked for',
  },
  // The trust root
  publication_pending: { exit: EXIT.approval, severity: 'refusal', title: 'Another publication waits for signatures' },
  awaiting_signatures: { exit: EXIT.approval, severity: 'refusal', title: 'A publication waits for signatures' },
  no_pending_publication: { exit: EXIT.usage, severity: 'refusal', title: 'No publication waits for signatures' },
  signature_refused: { exit: EXIT.integrity, severity: 'refusal', title: 'A signature is not of what waits' },
  signature_known: { exit: EXIT.policy, severity: 'refusal', title: 'A signature is here already' },
  candidate_expired: { exit: EXIT.policy, severity: 'refusal', title: 'What waits for signatures has ended' },
  payload_refused: { exit: EXIT.integrity, severity: 'refusal', title: 'A payload is not what it says' },
  root_signed: { exit: EXIT.policy, severity: 'refusal', title: 'A root that somebody signed cannot be unmade' },
  invalid_roles: { exit: EXIT.usage, severity: 'refusal', title: 'roles.json is not understood' },
  invalid_items: { exit: EXIT.usage, severity: 'refusal', title: 'items.json is not understood' },
  lint: { exit: EXIT.policy, severity: 'refusal', title: 'Some client could not read what would be published' },
  no_trust_root: { exit: EXIT.usage, severity: 'refusal', title: 'A server has no trust root' },
  // The trust root
  canary_failed: {
    exit: EXIT.policy,
    severity: 'refusal',
    title: 'A signature of ours does not verify with the trust root',
  },
  kit_damaged: { exit: EXIT.integrity, severity: 'refusal', title: 'An air-gap kit is not what was exported' },
  kit_other_root: { exit: EXIT.integrity, severity: 'refusal', title: 'An air-gap kit starts from another root' },
  kit_rollback: { exit: EXIT.integrity, severity: 'refusal', title: 'An air-gap kit is older than one before it' },
  kit_expired: { exit: EXIT.policy, severity: 'refusal', title: 'An air-gap kit has expired' },
  // What signs
  switch_refused: { exit: EXIT.policy, severity: 'refusal', title: 'What is to sign does not fit together' },
  switch_untrusted: {
    exit: EXIT.policy,
    severity: 'refusal',
    title: 'Clients do not know what is to sign',
  },
  switch_root_unaccepted: {
    exit: EXIT.policy,
    severity: 'refusal',
    title: 'The CT log does not accept the root of the new chain',
  },
  // Rotations
  rotation_underway: { exit: EXIT.locked, severity: 'refusal', title: 'Another rotation is under way' },
  rotation_none: { exit: EXIT.usage, severity: 'refusal', title: 'No rotation is under way' },
  rotation_waiting: { exit: EXIT.approval, severity: 'refusal', title: "A rotation waits for clients' caches" },
  rotation_awaiting_certificate: {
    exit: EXIT.approval,
    severity: 'refusal',
    title: 'A rotation waits for a certificate',
  },
  rotation_switched: { exit: EXIT.policy, severity: 'refusal', title: 'A rotation cannot be undone any more' },
  rotation_impossible: { exit: EXIT.policy, severity: 'refusal', title: 'Something cannot be rotated as it is' },
  rotation_unproven: {
    exit: EXIT.integrity,
    severity: 'refusal',
    title: 'A rotation is not proved by an old and a new signature',
  },
  rotation_unreadable: { exit: EXIT.failed, severity: 'refusal', title: 'The journal of rotations cannot be read' },
  emergency_awaits_agent: {
    exit: EXIT.approval,
    severity: 'refusal',
    title: "An emergency waits for the agent's operator",
  },
  distrust_impossible: { exit: EXIT.policy, severity: 'refusal', title: 'An item cannot be distrusted like this' },
  rotation_stalled: { exit: EXIT.failed, severity: 'ticket', title: 'A rotation stands still' },
  // Status, doctor and alert rules
  server_away: { exit: EXIT.locked, severity: 'page', title: 'No server answers' },
  agent_restarts: { exit: EXIT.hsm, severity: 'ticket', title: 'The HSM agent ended again and again' },
  checkpoint_old: { exit: EXIT.failed, severity: 'page', title: 'A log signed no head for too long' },
  certificate_ending: { exit: EXIT.failed, severity: 'ticket', title: 'A certificate nears its end' },
  certificate_expired: { exit: EXIT.failed, severity: 'page', title: 'A certificate has ended' },
  trust_root_ending: { exit: EXIT.failed, severity: 'ticket', title: 'TUF metadata nears its end' },
  trust_root_ending_soon: { exit: EXIT.failed, severity: 'ticket', title: 'TUF metadata ends within 30 days' },
  trust_root_ending_now: { exit: EXIT.failed, severity: 'page', title: 'TUF metadata ends within 14 days' },
  trust_root_late: { exit: EXIT.failed, severity: 'ticket', title: 'TUF metadata was not signed again for hours' },
  trust_root_failing: { exit: EXIT.failed, severity: 'page', title: 'TUF metadata has a day left' },
  trust_root_expired: { exit: EXIT.failed, severity: 'page', title: 'TUF metadata has expired or is gone' },
  standby_missing: { exit: EXIT.failed, severity: 'ticket', title: 'Nothing stands by for an emergency' },
  standby_in_service: { exit: EXIT.failed, severity: 'ticket', title: 'A standby is in service for a lost key' },
  object_half_pair: { exit: EXIT.integrity, severity: 'ticket', title: 'Half of a key pair lies on a token' },
  object_duplicate: { exit: EXIT.integrity, severity: 'ticket', title: 'Two objects on a token have the same id' },
  object_unknown: { exit: EXIT.integrity, severity: 'ticket', title: 'A token holds what nobody here put there' },
  key_extractable: { exit: EXIT.integrity, severity: 'page', title: 'A private key can be taken out of its token' },
  key_attributes: { exit: EXIT.integrity, severity: 'ticket', title: 'A private key has attributes that it must not' },
  file_mode: { exit: EXIT.authentication, severity: 'ticket', title: 'A folder or file may be read by others' },
  pin_misplaced: { exit: EXIT.authentication, severity: 'ticket', title: 'A PIN lies where it does not belong' },
  socket_path: { exit: EXIT.usage, severity: 'ticket', title: 'A path is too long for a socket' },
} as const satisfies Readonly<Record<string, Condition>>

export type Code = keyof typeof CATALOGUE
