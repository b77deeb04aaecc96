/**
 * What another user can do to an agent, run as that user (`external-agent.fixture.ts`): prints one word for each attempt.
 *
 *     stranger.fixture.ts socket PATH   `status` of the agent behind a socket: answered, refused (cut off), or the errno
 *     stranger.fixture.ts read FILE     readable, or the errno
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { connect } from 'node:net'
import { connectAgent } from './client.ts'
import { HsmError } from './signing.ts'

const [what, path = ''] = process.argv.slice(2)
console.log(what === 'socket' ? await askStatus() : read())

async function askStatus(): Promise<string> {
  const errno = await new Promise<string | undefined>((done) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      done(undefined)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => done(error.code))
  })
  if (errno !== undefined) return errno
  try {
    const agent = await connectAgent({ socketPath: path }, { deadlineMs: 3000 })
    await agent.close()
    return 'answered'
  } catch (error) {
    return error instanceof HsmError && error.reason === 'connection_lost' ? 'refused' : String(error)
  }
}

function read(): string {
  try {
    const file = openSync(path, 'r')
    readSync(file, Buffer.alloc(16), 0, 16, path.endsWith('/mem') ? 0 : null)
    closeSync(file)
    return 'readable'
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
}
