/** Who may speak with the agent through a unix socket: decided by the kernel's word for the peer, not by file modes alone. */
import type { Socket } from 'node:net'
import type { AgentLog } from './log-line.ts'

type PeerCredentials = (fd: number) => { readonly uid: number; readonly pid: number }

export type PeerCheck = (socket: Socket) => boolean

/**
 * A check that admits these users. Without the addon only our own user can be admitted, by the socket's mode alone;
 * with other users configured that is not enough, and the agent does not start.
 */
export async function peerCheck(uids: readonly number[], log: AgentLog): Promise<PeerCheck> {
  const own = process.getuid?.() ?? -1
  const allowed = new Set([own, ...uids])
  const peerCredentials = await loadPeerCredentials(log)
  if (peerCredentials === undefined) {
    if (allowed.size > 1) throw new Error('allowedUids needs the addon; build it with scripts/native')
    return () => true
  }
  return (socket) => {
    const fd = descriptorOf(socket)
    if (fd === undefined) return false
    const { uid, pid } = peerCredentials(fd)
    if (allowed.has(uid)) return true
    log.warn('connection of another user refused', { uid, pid })
    return false
  }
}

async function loadPeerCredentials(log: AgentLog): Promise<PeerCredentials | undefined> {
  try {
    const { peerCredentials, setNotDumpable } = await import('#native')
    setNotDumpable()
    return peerCredentials
  } catch (error) {
    log.warn('addon is not built: peers are told apart by file modes, and a core file could hold the PIN', {
      error: error instanceof Error ? error.message : 'unknown',
    })
    return undefined
  }
}

/** Node has no public name for the descriptor of an accepted connection. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } } // the cast is the point of this function
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined
}
