/** `chancery distrust`: what a key signed at some time is given up, for all clients. */
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import type { Affected } from '#server'
import type { Publication, TrustItem } from '#trust-root'
import { confirmedAs, printJson } from './agent-options.ts'
import { type InstallationOptions, installationOf } from './rotation.ts'
import { tellPublication } from './trust-options.ts'

interface DistrustOptions extends InstallationOptions {
  readonly from?: string
  readonly until?: string
  readonly entirely?: boolean
  readonly dryRun?: boolean
  readonly confirm?: string
  readonly json?: boolean
}

export function register(program: Command): void {
  program
    .command('distrust <item>')
    .summary('in an emergency: give up what a key signed from a time on, or all of it')
    .option('--from <time>', 'signatures of this time and later: 2026-11-21T08:00:00Z')
    .option('--until <time>', 'and no later than this (a CA or a timestamp authority)')
    .option('--entirely', 'every signature of this key, whenever it was made')
    .option('--dry-run', 'say what would be done, change nothing')
    .option('--confirm <item>', 'the item again: do it without being asked')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--agent <agent>', 'name, agent.yaml or admin socket of the agent of the services', 'online')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
An item is a key or chain of the trust root: chancery trust status, items.json.
First it is counted what would be given up: certificates in the CT logs, entries
of a log, timestamps in the account. Clients refuse those once they have the new
trust root; those with a cached one, when it has ended.

It stops no signing. A key that was stolen is first replaced by what stands by:
chancery rotate KIND --emergency.

Exit status: 0 done, 6 refused, 7 not confirmed, or custodians must sign.

Examples:
  chancery distrust certificate-authority --from 2026-11-21T08:00:00Z --dry-run
  chancery distrust timestamp-authority --from 2026-11-21T08:00:00Z \\
    --until 2026-11-21T09:30:00Z
  chancery distrust rekor-v2 --entirely --confirm rekor-v2
`,
    )
    .action(distrust)
}

async function distrust(id: string, options: DistrustOptions): Promise<void> {
  const { changesFor, itemNamed, settlement } = await import('#lifecycle')
  const installation = await installationOf(options)
  const item = await itemNamed(installation, id)
  const cut = { entirely: options.entirely ?? false, ...times(options) }
  const { changes: cuts, from, until, words } = changesFor(item, cut, new Date())
  // What stands by and was brought into service takes the place of what is cut, in the same release.
  const settled = await settlement(installation)
  const changes = [...settled, ...cuts]
  const isReplaced = settled.some((change) => change.op === 'set' && change.id === id)
  const stillSigns = item.state === 'active' && !isReplaced && until === undefined
  const lastGivenUp = until ?? cut.until
  const affected = (await installation.ask('distrust-affected', {
    item: id,
    ...(cut.entirely ? {} : { from: from.toISOString() }),
    ...(lastGivenUp === undefined ? {} : { until: lastGivenUp.toISOString() }),
  })) as Affected // our own server answers
  if (options.dryRun === true) {
    if (options.json === true) return printJson({ done: false, affected, changes })
    process.stdout.write(`${planScreen(item, words, affected, stillSigns)}Nothing was done.\n`)
    return
  }
  if (options.json !== true) process.stdout.write(planScreen(item, words, affected, stillSigns))
  await confirmedAs(id, `What ${id} signed is given up.`, options.confirm)
  await installation.ask('canary-distrust', {
    item: id,
    from: from.toISOString(),
    ...(until === undefined ? {} : { until: until.toISOString() }),
  })
  const publication = (await installation.ask('trust-change', { changes })) as Publication // our own server answers
  tellPublication(publication, { data: options.data, ...(options.json === true ? { json: true } : {}) })
  if (options.json === true) return
  process.stdout.write(nextScreen(item))
}

function times({ from, until, entirely }: DistrustOptions): { from?: Date; until?: Date } {
  if ((entirely === true) === (from !== undefined)) {
    throw new OperatorError('distrust_impossible', 'say either --from with a time, or --entirely')
  }
  const read = (text: string, option: string): Date => {
    const time = new Date(text)
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(text) || Number.isNaN(time.getTime())) {
      throw new OperatorError('distrust_impossible', `${option} takes a time like 2026-11-21T08:00:00Z, not ${text}`)
    }
    return time
  }
  return {
    ...(from === undefined ? {} : { from: read(from, '--from') }),
    ...(until === undefined ? {} : { until: read(until, '--until') }),
  }
}

/** As `chancery rotate` calls them. */
const ROTATED: Readonly<Record<TrustItem['kind'], string>> = {
  'certificate-authority': 'issuing-ca',
  'timestamp-authority': 'tsa',
  'ct-log': 'ct-log',
  'rekor-v1': 'rekor-v1',
  'rekor-v2': 'rekor-v2',
  'oidc-issuer': 'KIND',
}

function planScreen(
  { id, kind }: TrustItem,
  words: string,
  { counts, unknown }: Affected,
  stillSigns: boolean,
): string {
  const lines = [
    words,
    ...counts.map(({ what, count }) => `  ${String(count).padStart(8)} ${what} are given up`),
    ...(unknown === '' ? [] : [`  not counted: ${unknown}`]),
    ...(stillSigns
      ? [
          `${id} signs now: what it signs from now on is refused as well. Replace it first:`,
          `  chancery rotate ${ROTATED[kind]} --emergency`,
        ]
      : []),
  ]
  return `${lines.join('\n')}\n`
}

/** What people have to do that no publication does. */
function nextScreen({ kind }: TrustItem): string {
  const again: Readonly<Record<TrustItem['kind'], string>> = {
    'certificate-authority': 'Sign again what was signed with those certificates and is still needed.',
    'timestamp-authority': 'Sign again what has its time from there alone.',
    'ct-log': 'Certificates with a promise of this log verify no more: sign again.',
    'rekor-v1': 'Sign again what was logged there and is still needed.',
    'rekor-v2': 'Clients look at no window of a Rekor v2 log: only --entirely is refused by all.',
    'oidc-issuer': '',
  }
  return [
    again[kind],
    'Clients with a cached trust root refuse it when that has ended; at once after',
    '  cosign initialize, a restart of Kyverno and of policy-controller.',
    'When nothing stands by any more: chancery rotate standby',
    '',
  ].join('\n')
}
