/** `chancery init --from-ceremony`: an installation of the keys that a ceremony made. */
import { readFileSync } from 'node:fs'
import { EXIT } from '#alarms'
import type { CeremonyInstallation } from '#lifecycle/ceremony'

interface FromCeremony {
  readonly dataDir: string
  readonly folder: string
  readonly choices: CeremonyInstallation['choices']
  /** Files of `chancery trust sign`. */
  readonly signatureFiles: readonly string[]
}

/** Makes it, or says what is to be signed, and ends with status 7. */
export async function initFromCeremony({ dataDir, folder, choices, signatureFiles }: FromCeremony): Promise<void> {
  const { installFromCeremony } = await import('#lifecycle/ceremony')
  const signatures = signatureFiles.map((file): unknown => JSON.parse(readFileSync(file, 'utf8')))
  const onStep = (step: string) => void process.stderr.write(`  ${step}\n`)
  const made = await installFromCeremony({ dataDir, folder, choices, signatures, onStep })
  if (made.state === 'made') {
    process.stderr.write(`  made; serve it with: chancery serve --data ${dataDir}\n`)
    return
  }
  process.exitCode = EXIT.approval
  const roles = made.pending.roles.map(
    ({ role, have, need, missing }) =>
      `  ${role}: ${have} of ${need}, not by ${missing.map(({ name }) => name).join(', ')}`,
  )
  process.stdout.write(
    `what clients will trust is not signed yet:\n${roles.join('\n')}\n` +
      `Each holder signs ${made.payloadFile} on a machine of their own:\n` +
      '  chancery trust sign tuf-payload.json --agent AGENT --key NAME -o NAME.json\n' +
      'Then the same command again, with --tuf-signatures NAME.json …\n',
  )
}
