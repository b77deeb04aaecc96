/** `chancery agent`: its configuration read again, and the copied state of one that does not run. */
import type { Command } from 'commander'
import { OperatorError } from '#alarms'
import { type AgentOptions, agentOptions, printJson, reachOf } from './agent-options.ts'

export function register(program: Command): void {
  const agent = program
    .command('agent')
    .summary('let an agent read its configuration again; take over a copied state')
    .addHelpText(
      'after',
      '\nExamples:\n  chancery agent reload --agent /etc/chancery/agent.yaml\n  chancery agent adopt --data ./data\n',
    )
  agentOptions(agent.command('reload').summary('read its configuration again, while it signs'))
    .addHelpText(
      'after',
      `
Keys and tokens that are new are there when it ends; requests under way with a
key that is gone are answered first. A faulty configuration is refused and the
former stays in force. To be called by the user that the agent runs as.

Exit status: 0 read, 1 refused, 2 no such agent, 4 it is another user's, 5 it
does not run, 8 a new key or token cannot be used.

Examples:
  chancery agent reload --data ./data
  chancery agent reload --agent /run/chancery-agent/admin.sock --json
`,
    )
    .action(reload)
  agentOptions(agent.command('adopt').summary('accept a copied state, once the original is gone for good'))
    .option('--confirm <instance>', 'the instance that the refusal told')
    .addHelpText(
      'after',
      `
An agent's state remembers what was signed last. Two agents that go on from
copies of it sign two histories of one log, and nothing on this machine can
notice. Adopt a copy only where the original can never be started again: a
folder that was moved by copying, a disk that was replaced. A state from a
backup is older than what was signed: use none (docs/runbook.md#guard_behind).

Without --confirm it tells what it found. The agent must not run.

Exit status: 0 adopted, 2 no such agent, 3 the agent runs, 7 not confirmed.

Examples:
  chancery agent adopt --data ./data
  chancery agent adopt --data ./data --confirm 5c0ffee5c0ffee00
`,
    )
    .action(adopt)
}

async function adopt({ data, agent, json, confirm }: AgentOptions & { readonly confirm?: string }): Promise<void> {
  const { adoptAgentState } = await import('#lifecycle')
  await adoptAgentState({ dataDir: data, agent }, confirm)
  if (json === true) process.stdout.write(`${JSON.stringify({ adopted: confirm })}\n`)
  else process.stdout.write('the state is adopted: the agent may be started\n')
}

async function reload(options: AgentOptions): Promise<void> {
  const { reloadAgent } = await import('#lifecycle')
  const reloaded = await reloadAgent(reachOf(options))
  const { keys, tokens, faults, needsRestart } = reloaded
  if (options.json === true) printJson(reloaded)
  else {
    const named = (what: string, names: readonly string[]) =>
      names.length === 0 ? [] : [`${what}: ${names.join(', ')}`]
    const lines = [
      'the agent has read its configuration again',
      ...named('  new tokens', tokens.added),
      ...named('  new keys', keys.added),
      ...named('  keys that are gone', keys.dropped),
      ...named('  tokens that are gone', tokens.dropped),
      ...faults.map(({ name, message }) => `  cannot be used: ${name}: ${message}`),
      ...named('  changed, and read at its next start only', needsRestart),
    ]
    process.stdout.write(`${lines.join('\n')}\n`)
  }
  // A key that was lost before is named above and no reason to fail: it is why somebody reloads.
  const added = [...tokens.added, ...keys.added]
  const fault = faults.find(({ name }) => added.includes(name.replace(/^(?:key|token):/, '')))
  if (fault !== undefined) throw new OperatorError('key_unusable', `${fault.name} cannot be used: ${fault.message}`)
}
