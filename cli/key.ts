/** `chancery key`: the keys of an agent's tokens. Everything is done by the agent, whose account has a line of it. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { type Command, Option } from 'commander'
import type { AdminAgent, KeyKind, KeyRecord, RestoredKey } from '#hsm'
import type { JudgedObject } from '#lifecycle'
import { type AgentOptions, agentOptions, confirmed, printJson, reachOf, table, wrapped } from './agent-options.ts'
import { registerKek } from './key-encryption-key.ts'
import { registerRaiseCap } from './raise-cap.ts'

export function register(program: Command): void {
  const key = program
    .command('key')
    .summary('list, make, destroy, back up and restore keys')
    .addHelpText(
      'after',
      `
A running server's agent is asked through its socket; otherwise one is started
for the moment (--agent root: the root token's). NAME is a key's name in
agent.yaml, the label on its token, or its id in hex.

Exit status: 0 done, 2 no such agent, 3 another agent holds the state, 4 a PIN
or a latch, 5 the HSM is away, 6 refused, 7 not confirmed, 8 a damaged
backup.

Examples:
  chancery key ls --data ./data
  chancery key show issuing-ca --data ./data
  chancery key gen ct-2027 --token online --kind P-256 --data ./data
`,
    )
  registerList(key)
  registerShow(key)
  registerGenerate(key)
  registerDestroy(key)
  registerUnlatch(key)
  registerRaiseCap(key)
  registerBackup(key)
  registerRestore(key)
  registerKek(key)
}

interface Surveyed {
  readonly records: readonly KeyRecord[]
  /** By token, what lies on it; a token that is away has none. */
  readonly judged: ReadonlyMap<string, readonly JudgedObject[]>
}

/** The configured keys and everything on the tokens that are connected. */
async function survey(admin: AdminAgent): Promise<Surveyed> {
  const { judgeObjects } = await import('#lifecycle')
  const records = await admin.keyRecords()
  const judged = new Map<string, readonly JudgedObject[]>()
  for (const token of await admin.tokens()) {
    if (!token.loggedIn) continue
    const objects = await admin.listObjects(token.name)
    judged.set(token.name, judgeObjects(token.name, objects, records))
  }
  return { records, judged }
}

const ROLE_OF_PURPOSE: Readonly<Record<string, string>> = {
  certificate: 'ca',
  treeHead: 'log',
  witnessHead: 'log',
  sct: 'log',
  set: 'log',
  timestamp: 'timestamp',
  tuf: 'trust',
  caCertificate: 'root',
  certificateRequest: 'ca',
  ceremonyStatement: 'operator',
  accountHead: 'account',
}
const ROLES = [...new Set(Object.values(ROLE_OF_PURPOSE))]

interface ListOptions extends AgentOptions {
  readonly role?: string
  readonly orphans?: boolean
}

function registerList(key: Command): void {
  agentOptions(key.command('ls').summary('keys with kind, state and uses'))
    .addOption(new Option('--role <role>', 'only the keys of one role').choices(ROLES))
    .option('--orphans', 'only what should not be there: half pairs, duplicates, nameless and unknown objects')
    .addHelpText(
      'after',
      '\nExamples:\n  chancery key ls --data ./data --role log\n  chancery key ls --data ./data --orphans\n  chancery key ls --agent root --json\n',
    )
    .action(list)
}

async function list(options: ListOptions): Promise<void> {
  const { ORPHANS, spkiSha256, withAdminAgent } = await import('#lifecycle')
  const { records, judged } = await withAdminAgent(reachOf(options), survey)
  const objects = [...judged].flatMap(([token, found]) => found.map((each) => ({ token, ...each })))
  const orphans = objects.filter(({ verdict }) => ORPHANS.includes(verdict))
  const others = objects.filter(({ object, verdict }) => verdict === 'spare' && object.class === 'private key')
  const keys = records
    .filter(
      ({ purposes }) => options.role === undefined || purposes.some((each) => ROLE_OF_PURPOSE[each] === options.role),
    )
    .map((record) => ({ ...record, spkiSha256: spkiSha256(record.spkiDer), state: stateOf(record, judged) }))
  if (options.json === true) {
    const object = ({ token, object: { class: of, keyType, label, idHex }, verdict }: (typeof objects)[number]) => ({
      token,
      class: of,
      keyType,
      label,
      idHex,
      verdict,
    })
    const plain = keys.map(({ spkiDer, ...rest }) => ({ ...rest, spki: Buffer.from(spkiDer).toString('base64') }))
    printJson(
      options.orphans === true
        ? { orphans: orphans.map(object) }
        : { keys: plain, spare: others.map(object), orphans: orphans.map(object) },
    )
    return
  }
  const rowOf = ({ token, object, verdict }: (typeof objects)[number]) => [
    verdict,
    object.class,
    token,
    object.label === '' ? '-' : object.label,
    object.idHex === '' ? '-' : object.idHex,
  ]
  const heading = ['WHAT', 'OBJECT', 'TOKEN', 'LABEL', 'ID']
  if (options.orphans === true) {
    process.stdout.write(orphans.length === 0 ? 'no orphans\n' : table(heading, orphans.map(rowOf)))
    return
  }
  const rows = keys.map(({ name, kind, token, state, uses, purposes }) => [
    name,
    kind,
    token,
    state,
    String(uses),
    purposes.join(' '),
  ])
  process.stdout.write(table(['KEY', 'KIND', 'TOKEN', 'STATE', 'USES', 'PURPOSES'], rows))
  for (const { name, latched, fault } of keys) {
    if (latched === '' && fault === '') continue
    process.stdout.write(`${[`\n${name}:`, ...wrapped(latched || fault)].join('\n')}\n`)
  }
  if (options.role !== undefined) return
  if (others.length > 0) process.stdout.write(`\nIn no configuration:\n${table(heading, others.map(rowOf))}`)
  if (orphans.length > 0) process.stdout.write(`\n${orphans.length} orphans: chancery key ls --orphans\n`)
}

function stateOf({ latched, fault, token, idHex }: KeyRecord, judged: Surveyed['judged']): string {
  if (latched !== '') return 'LATCHED'
  const found = judged.get(token)
  if (found === undefined) return 'AWAY'
  if (fault !== '') return 'FAULT'
  return found.some(({ object }) => object.class === 'private key' && object.idHex === idHex) ? 'ready' : 'MISSING'
}

function registerShow(key: Command): void {
  agentOptions(key.command('show <name>').summary('one key: attributes against the policy, certificates, uses'))
    .option('--token <token>', 'token, where several have it')
    .addHelpText(
      'after',
      '\nExamples:\n  chancery key show issuing-ca --data ./data\n  chancery key show root-ca --agent root\n',
    )
    .action(show)
}

async function show(name: string, options: AgentOptions & { readonly token?: string }): Promise<void> {
  const { certificatesOf, judgeAttributes, spkiSha256, withAdminAgent } = await import('#lifecycle')
  const surveyed = await withAdminAgent(reachOf(options), survey)
  const { token, record, halves } = await keyNamed(name, surveyed, options.token)
  const privateHalf = halves.find(({ object }) => object.class === 'private key')?.object
  const publicHalf = halves.find(({ object }) => object.class === 'public key')?.object
  const spkiDer = publicHalf?.spkiDer ?? record?.spkiDer ?? new Uint8Array(0)
  const { backup, findings } =
    privateHalf === undefined ? { backup: false, findings: [] } : judgeAttributes(privateHalf)
  const certificates = certificatesOf(options.data, spkiDer)
  const idHex = privateHalf?.idHex ?? publicHalf?.idHex ?? record?.idHex ?? ''
  const label = privateHalf?.label ?? publicHalf?.label ?? ''
  const state = record === undefined ? 'in no configuration' : stateOf(record, surveyed.judged)
  if (options.json === true) {
    printJson({
      name: record?.name ?? null,
      token,
      label,
      idHex,
      kind: record?.kind ?? null,
      state,
      purposes: record?.purposes ?? [],
      origin: record?.origin ?? '',
      uses: record?.uses ?? 0,
      latched: record?.latched ?? '',
      fault: record?.fault ?? '',
      spki: Buffer.from(spkiDer).toString('base64'),
      spkiSha256: spkiSha256(spkiDer),
      backup,
      attributes: findings,
      unproven: findings.filter(({ verdict }) => verdict === 'unproven').map(({ name: attribute }) => attribute),
      certificates,
    })
    return
  }
  const lines = [
    ['key', record?.name ?? '-'],
    ['state', state],
    ['token', `${token}, label ${label || '-'}`],
    ['id', idHex],
    ['kind', record?.kind ?? privateHalf?.keyType ?? '-'],
    ['purposes', record?.purposes.join(' ') ?? '-'],
    ...(record?.origin ? [['origin', record.origin]] : []),
    ['uses', record === undefined ? '-' : String(record.uses)],
    ['SPKI sha256', spkiSha256(spkiDer)],
    ['backup', backup ? 'can be wrapped under a trusted key' : 'never leaves its token'],
    ...(record?.latched ? [['LATCHED', record.latched]] : []),
    ...(record?.fault ? [['FAULT', record.fault]] : []),
    ...certificates.map(({ file, subject, notAfter }) => [
      'certificate',
      `${file}: ${subject}, until ${notAfter.slice(0, 10)}`,
    ]),
  ]
  process.stdout.write(lines.map(([what = '', value = '']) => `${what.padEnd(11)} ${value}\n`).join(''))
  if (privateHalf === undefined) process.stdout.write('\nThe token has no private key of it.\n')
  else {
    const rows = findings.map(({ name: attribute, found, wanted, rule, verdict }) => [
      attribute,
      found,
      wanted,
      rule,
      verdict,
    ])
    process.stdout.write(`\n${table(['ATTRIBUTE', 'FOUND', 'WANTED', 'RULE', ''], rows)}`)
  }
}

interface NamedKey {
  readonly token: string
  readonly record: KeyRecord | undefined
  readonly halves: readonly JudgedObject[]
}

/** By name in the configuration, else by label or id on a token. Throws `HsmError` `no_such_key` or `key_not_unique`. */
async function keyNamed(name: string, { records, judged }: Surveyed, token?: string): Promise<NamedKey> {
  const { HsmError } = await import('#hsm')
  const record = records.find((each) => each.name === name && (token === undefined || each.token === token))
  const matches = [...judged].flatMap(([each, objects]) =>
    token !== undefined && token !== each
      ? []
      : objects
          .filter(({ object }) => object.class === 'private key' || object.class === 'public key')
          .filter(({ object }) =>
            record === undefined
              ? object.label === name || (object.idHex !== '' && object.idHex === name)
              : object.idHex === record.idHex && each === record.token,
          )
          .map((found) => ({ ...found, token: each })),
  )
  const places = new Set(matches.map(({ object, token: each }) => `${each}/${object.idHex}`))
  if (places.size > 1) {
    throw new HsmError(
      'refused',
      'key_not_unique',
      `${name} is several keys; name one by its id or --token: chancery key ls`,
    )
  }
  const [first] = matches
  if (record !== undefined) return { token: record.token, record, halves: matches }
  if (first === undefined) throw new HsmError('refused', 'no_such_key', `there is no key ${name}; see: chancery key ls`)
  const named = records.find((each) => each.token === first.token && each.idHex === first.object.idHex)
  return { token: first.token, record: named, halves: matches }
}

/** Told here too, so that help loads no part of the system; the agent decides. */
const KINDS: readonly KeyKind[] = ['P-256', 'P-384', 'rsa-2048', 'rsa-3072', 'rsa-4096', 'ed25519']

interface GenerateOptions extends AgentOptions {
  readonly token: string
  readonly kind: KeyKind
  readonly backup?: boolean
  readonly dryRun?: boolean
}

function registerGenerate(key: Command): void {
  agentOptions(key.command('gen <label>').summary('make a key pair on a token'))
    .option('--token <token>', 'token, by its name in agent.yaml', 'online')
    .addOption(new Option('--kind <kind>', 'what is made').choices(KINDS).default('P-256'))
    .option('--backup', 'may be wrapped for a backup, under a trusted key-encryption key')
    .option('--dry-run', 'say what would be done, change nothing')
    .addHelpText(
      'after',
      `
The pair signs and does nothing else; its attributes are read back, and a key
that is otherwise is destroyed. What is printed goes into agent.yaml, with
purposes; then: chancery serve is started again, or the agent reads its
configuration anew. Without --backup the key dies with its token.

Examples:
  chancery key gen ct-2027 --data ./data
  chancery key gen issuing-ca-2 --kind P-384 --backup --dry-run
`,
    )
    .action(generate)
}

async function generate(label: string, options: GenerateOptions): Promise<void> {
  const { HsmError } = await import('#hsm')
  const { operatorError, spkiSha256, withAdminAgent } = await import('#lifecycle')
  const { token, kind, backup = false } = options
  const made = await withAdminAgent(reachOf(options), async (admin) => {
    if (options.dryRun !== true) return await admin.generateKey({ token, label, kind, backup })
    const taken = (await admin.listObjects(token)).some((object) => object.label === label)
    if (taken) {
      throw operatorError(
        new HsmError('refused', 'label_exists', `token already has an object with the label ${label}`),
      )
    }
    return undefined
  })
  const what = `${kind} key pair ${label} on token ${token}, ${backup ? 'for wrapped backup' : 'never to leave it'}`
  if (made === undefined) {
    if (options.json === true) printJson({ done: false, token, label, kind, backup })
    else process.stdout.write(`Would make: ${what}\nNothing was done.\n`)
    return
  }
  const spki = Buffer.from(made.spkiDer).toString('base64')
  if (options.json === true) {
    const { spkiDer, ...rest } = made
    printJson({ done: true, label, backup, ...rest, spki, spkiSha256: spkiSha256(spkiDer) })
    return
  }
  const { stringify } = await import('yaml')
  const entry = { [label.toLowerCase()]: { uri: made.uri, token, spki, kind: made.kind, purposes: [] } }
  process.stdout.write(
    `made: ${what}\nid          ${made.idHex}\nSPKI sha256 ${spkiSha256(made.spkiDer)}\n` +
      `unproven    ${made.unproven.length === 0 ? 'nothing' : made.unproven.join(' ')}\n\nFor agent.yaml, below keys:\n` +
      `${stringify(entry, { lineWidth: 0 }).trimEnd().replace(/^/gm, '  ')}\n`,
  )
}

interface DestroyOptions extends AgentOptions {
  readonly token?: string
  readonly dryRun?: boolean
  readonly confirm?: boolean
}

function registerDestroy(key: Command): void {
  agentOptions(key.command('destroy <id>').summary('destroy a key that no configuration names'))
    .option('--token <token>', 'token, by its name in agent.yaml (default: wherever the id is)')
    .addOption(new Option('--dry-run', 'say what would be done, change nothing').conflicts('confirm'))
    .option('--confirm', 'do it without being asked')
    .addHelpText(
      'after',
      `
Every object with that id goes, and nothing brings a key back that was not
backed up. A key that any agent.yaml of the data folder names is refused. The
account has a line of it.

Examples:
  chancery key ls --orphans
  chancery key destroy 3f0c…e1 --data ./data --dry-run
  chancery key destroy 3f0c…e1 --data ./data --confirm
`,
    )
    .action(destroy)
}

async function destroy(idHex: string, options: DestroyOptions): Promise<void> {
  const { HsmError } = await import('#hsm')
  const { namesOfId, withAdminAgent } = await import('#lifecycle')
  const { OperatorError } = await import('#alarms')
  const [named] = namesOfId(options.data, idHex)
  if (named !== undefined) {
    throw new OperatorError('key_configured', `${named.file} names this key ${named.key}; take it out first`)
  }
  const result = await withAdminAgent(reachOf(options), async (admin) => {
    const { judged } = await survey(admin)
    const places = [...judged]
      .filter(([token]) => options.token === undefined || token === options.token)
      .map(([token, objects]) => ({ token, objects: objects.filter(({ object }) => object.idHex === idHex) }))
      .filter(({ objects }) => objects.length > 0)
    const [place, second] = places
    if (place === undefined) throw new HsmError('refused', 'no_such_key', `nothing has the id ${idHex}`)
    if (second !== undefined) throw new HsmError('refused', 'key_not_unique', 'several tokens have it; say --token')
    const configured = place.objects.find(({ key }) => key !== undefined)?.key
    if (configured !== undefined) {
      throw new OperatorError('key_configured', `key ${configured} is in the configuration; take it out first`)
    }
    if (options.dryRun !== true) {
      const labels = [...new Set(place.objects.map(({ object: { label } }) => label || 'no name'))].join(', ')
      await confirmed(`The key ${labels} on token ${place.token} is destroyed, for good.`, options.confirm)
      await admin.destroyKey({ token: place.token, idHex })
    }
    return place
  })
  const objects = result.objects.map(({ object: { class: of, keyType, label }, verdict }) => ({
    class: of,
    keyType,
    label,
    verdict,
  }))
  const done = options.dryRun !== true
  if (options.json === true) {
    printJson({ done, token: result.token, idHex, objects })
    return
  }
  const rows = objects.map(({ class: of, keyType, label, verdict }) => [of, keyType, label || '-', verdict])
  process.stdout.write(
    `${done ? 'Destroyed' : 'Would destroy'} on token ${result.token}:\n${table(['OBJECT', 'TYPE', 'LABEL', 'WHAT'], rows)}` +
      (done ? '' : 'Nothing was done.\n'),
  )
}

function registerUnlatch(key: Command): void {
  agentOptions(key.command('unlatch <name>').summary("lift a key's latch, or its log's"))
    .option('--confirm', 'do it without being asked: the cause was found')
    .addHelpText(
      'after',
      `
A log's key is latched when somebody asked for a signature that would fork the
log: read docs/runbook.md#fork_refused first. A latch that is lifted without
its cause being gone comes back with the next request. A token's latch:
chancery token unlatch.

Example:
  chancery key unlatch rekor-v2 --data ./data --confirm
`,
    )
    .action(unlatch)
}

async function unlatch(name: string, options: AgentOptions & { readonly confirm?: boolean }): Promise<void> {
  const { HsmError } = await import('#hsm')
  const { withAdminAgent } = await import('#lifecycle')
  const lifted = await withAdminAgent(reachOf(options), async (admin) => {
    const record = (await admin.keyRecords()).find((each) => each.name === name)
    if (record === undefined) throw new HsmError('refused', 'no_such_key', `the agent has no key ${name}`)
    const wanted = [`key:${name}`, `origin:${record.origin}`]
    const found = (await admin.latches()).filter((latch) => wanted.includes(latch.name))
    for (const latch of found)
      process.stderr.write(`${latch.name} since ${new Date(latch.atMs).toISOString()}: ${latch.reason}\n`)
    if (found.length > 0) await confirmed('Lift it?', options.confirm)
    for (const latch of found) await admin.unlatch({ latch: latch.name })
    return found.map((latch) => latch.name)
  })
  if (options.json === true) printJson({ key: name, lifted })
  else process.stdout.write(lifted.length === 0 ? `key ${name} is not latched\n` : `lifted: ${lifted.join(', ')}\n`)
}

interface BackupOptions extends AgentOptions {
  readonly output: string
}

function registerBackup(key: Command): void {
  agentOptions(key.command('backup [names...]').summary('wrap keys for a backup, under a trusted key-encryption key'))
    .requiredOption('-o, --output <file>', 'file to write, new; it holds no secret in the clear')
    .addHelpText(
      'after',
      `
Only keys that were made with --backup, on a token with a key-encryption key
(key kek). A thief needs this file, a token with the same key-encryption key,
and its PIN. Without names: all; those that cannot be wrapped are listed with
their reason.

Exit status: 0 all of the named were wrapped (or at least one, without names),
6 not.

Examples:
  chancery key backup -o keys.json --data ./data
  chancery key backup issuing-ca -o ca.json --data ./data
`,
    )
    .action(backup)
}

async function backup(names: readonly string[], options: BackupOptions): Promise<void> {
  const { OperatorError, EXIT } = await import('#alarms')
  const { HsmError } = await import('#hsm')
  const { backupKeys, formatKeyBackup, withAdminAgent } = await import('#lifecycle')
  if (existsSync(options.output)) throw new OperatorError('backup_target_exists', `${options.output} is there already`)
  const made = await withAdminAgent(reachOf(options), async (admin) => {
    const records = await admin.keyRecords()
    const only = names.map((name) => records.find((record) => record.name === name)?.idHex ?? name)
    const result = await backupKeys(admin, { now: new Date(), ...(names.length === 0 ? {} : { only }) })
    const told = [...result.keys, ...result.notWrapped]
    const missing = only.findIndex((each) => !told.some(({ label, idHex }) => label === each || idHex === each))
    if (missing !== -1) throw new HsmError('refused', 'no_such_key', `there is no key ${names[missing] ?? ''}`)
    return result
  })
  const failed = made.keys.length === 0 || (names.length > 0 && made.notWrapped.length > 0)
  if (!failed) writeFileSync(options.output, formatKeyBackup(made), { mode: 0o600, flag: 'wx', flush: true })
  if (failed) process.exitCode = EXIT.policy
  if (options.json === true) {
    const keys = made.keys.map(({ label, idHex, token, kind, kekIdHex }) => ({ label, idHex, token, kind, kekIdHex }))
    printJson({ file: failed ? null : resolve(options.output), keys, notWrapped: made.notWrapped })
    return
  }
  const rows = [
    ...made.keys.map(({ label, token, kind }) => [label, token, `wrapped (${kind})`]),
    ...made.notWrapped.map(({ label, token, reason }) => [label, token, `NOT: ${reason}`]),
  ]
  if (rows.length > 0) process.stdout.write(table(['KEY', 'TOKEN', ''], rows))
  process.stdout.write(
    failed ? 'No file was written.\n' : `${made.keys.length} of ${rows.length} in ${options.output}\n`,
  )
  const reasons = new Map(made.notWrapped.map(({ reason, message }) => [reason, message]))
  for (const [reason, message] of reasons) process.stderr.write(`${reason}: ${message}\n`)
}

interface RestoreOptions extends AgentOptions {
  readonly from: string
  readonly token: string
  readonly dryRun?: boolean
}

function registerRestore(key: Command): void {
  agentOptions(key.command('restore [labels...]').summary('put keys of a backup on a token'))
    .requiredOption('--from <file>', 'file of key backup')
    .option('--token <token>', 'token, by its name in agent.yaml', 'online')
    .option('--dry-run', 'say what would be done, change nothing')
    .addHelpText(
      'after',
      `
The token needs the key-encryption key of the backup (key kek). Each key has
signed, and its signature verified under the public key in the backup, before
it counts as restored. Run again it goes on where it stopped. Id and label
stay, so that agent.yaml needs a new uri only where the token's label is
another.

Examples:
  chancery key restore --from keys.json --token recovery --data ./data --dry-run
  chancery key restore issuing-ca --from keys.json --token recovery
`,
    )
    .action(restore)
}

async function restore(labels: readonly string[], options: RestoreOptions): Promise<void> {
  const { HsmError } = await import('#hsm')
  const { parseKeyBackup, restoreKeys, withAdminAgent } = await import('#lifecycle')
  const all = parseKeyBackup(readFileSync(options.from, 'utf8'))
  const missing = labels.find((label) => !all.some((each) => each.label === label))
  if (missing !== undefined) throw new HsmError('refused', 'no_such_key', `the backup has no key ${missing}`)
  const keys = all.filter(({ label }) => labels.length === 0 || labels.includes(label))
  if (options.dryRun === true) {
    const rows = keys.map(({ label, kind, token, createdAt, idHex }) => [
      label,
      kind,
      token,
      createdAt.slice(0, 10),
      idHex,
    ])
    if (options.json === true)
      printJson({ done: false, keys: keys.map(({ label, idHex, kind }) => ({ label, idHex, kind })) })
    else process.stdout.write(`${table(['KEY', 'KIND', 'FROM', 'MADE', 'ID'], rows)}Nothing was done.\n`)
    return
  }
  const restored: (RestoredKey & { label: string })[] = []
  await withAdminAgent(reachOf(options), (admin) =>
    restoreKeys(admin, options.token, keys, (each, label) => restored.push({ ...each, label })),
  )
  if (options.json === true) {
    printJson({
      done: true,
      keys: restored.map(({ spkiDer, ...rest }) => ({ ...rest, spki: Buffer.from(spkiDer).toString('base64') })),
    })
    return
  }
  for (const { label, already, uri } of restored) {
    process.stdout.write(`${label}: ${already ? 'was there already, and signs' : 'restored, and signs'}\n  ${uri}\n`)
  }
}
