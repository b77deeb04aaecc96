/** `chancery ceremony key`: a key on a token of one's own, with which an operator approves. */
import { writeFileSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { encodePem } from '#x509'
import { printJson } from './agent-options.ts'

interface KeyOptions {
  readonly agent: string
  readonly token: string
  readonly kind: 'P-256' | 'P-384' | 'ed25519'
  readonly data: string
  readonly output?: string
  readonly json?: boolean
}

export function registerKey(ceremony: Command): void {
  ceremony
    .command('key <name>')
    .summary('make a key for approvals on a token of your own')
    .requiredOption('--agent <agent>', 'name or agent.yaml of the agent of that token')
    .requiredOption('--token <token>', 'token, by its name in agent.yaml')
    .addOption(new Option('--kind <kind>', 'what is made').choices(['P-256', 'P-384', 'ed25519']).default('P-256'))
    .option('--data <dir>', 'data folder, for an agent by name', 'data')
    .option('-o, --output <file>', 'file to write, its public half, PEM (default: NAME.pem)')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Operators with keys of SSH or minisign need none. It gets the one purpose
ceremonyStatement in agent.yaml: it signs approvals and nothing else.

Example:
  chancery ceremony key carol --agent agent.yaml --token carol
`,
    )
    .action(make)
}

async function make(
  name: string,
  { agent, token, kind, data, output = `${name}.pem`, json }: KeyOptions,
): Promise<void> {
  const { makeOperatorKey } = await import('#lifecycle/ceremony')
  const spkiDer = await makeOperatorKey({ dataDir: data, agent }, { name, token, kind })
  writeFileSync(output, encodePem('PUBLIC KEY', spkiDer), { flush: true })
  if (json === true) printJson({ file: output, spki: Buffer.from(spkiDer).toString('base64') })
  else process.stdout.write(`made: ${kind} key ${name} on token ${token}\nwritten: ${output}\n`)
}
