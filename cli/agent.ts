/** `chancery agent`: what is done to an agent that does not run. */
import type { Command } from 'commander'
import { type AgentOptions, agentOptions } from './agent-options.ts'

export function register(program: Command): void {
  const agent = program
    .command('agent')
    .summary('take over the copied state of an HSM agent')
    .addHelpText('after', '\nExample:\n  chancery agent adopt --data ./data\n')
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
