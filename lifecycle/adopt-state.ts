/** Taking over a copied state of an agent, once the original is gone: by the agent's own program, which holds the lock. */
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { OperatorError } from '#alarms'
import { type AgentReach, readAgentFile } from './agents.ts'

/**
 * Has the state adopted whose instance `confirm` names, which is told in the refusal of an agent that was started on it.
 * Without it nothing is done. Throws `OperatorError`: `confirmation_needed` (with the instance in its words), `agent_locked`.
 */
export async function adoptAgentState(reach: AgentReach, confirm: string | undefined): Promise<void> {
  const { path } = readAgentFile(reach)
  const agent = createRequire(import.meta.url).resolve('#hsm/agent')
  // No instance has this name: the agent says what it found, and ends.
  const child = spawn(process.execPath, [agent, '--config', path, '--adopt-state', confirm ?? 'none'], {
    env: {},
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    said += part
  })
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (status === 0) return
  const message = lastMessage(said)
  if (message.startsWith('state_copied')) {
    throw new OperatorError('confirmation_needed', `nothing was done: ${message.replace(/^state_copied: /, '')}`)
  }
  if (message.startsWith('another agent uses')) throw new OperatorError('agent_locked', `${message}; stop it first`)
  throw new OperatorError('confirmation_needed', `nothing was done: ${message}`)
}

function lastMessage(said: string): string {
  for (const line of said.trim().split('\n').toReversed()) {
    try {
      const { msg } = JSON.parse(line) as { msg?: unknown } // the agent's own lines
      if (typeof msg === 'string') return msg
    } catch {
      // Of the module, or of Node.
    }
  }
  return 'the agent ended without a word'
}
