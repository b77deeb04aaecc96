/** Who may speak with the agent through a unix socket: decided by the kernel's word for the peer, not by file modes alone. */
import type { Socket } from 'node:net'
import type { PeerCredentials } from '#native'
import type { AgentLog } from './log-line.ts'

export type PeerCheck = (socket: Socket) => boolean

/** Peers beside our own user. */
export interface AllowedPeers {
  /** If told, the peer must be in it, by its primary or a supplementary group. */
  readonly gid?: number | undefined
  /** If told, the peer must be one of them; with `gid`, both must hold. */
  readonly uids?: readonly number[] | undefined
}

/** True if these credentials are among `allowed`, or are our own user's. */
export function isAllowed(peer: Omit<PeerCredentials, 'pid'>, allowed: AllowedPeers, ownUid: number): boolean {
  if (peer.uid === ownUid) return true
  const { gid, uids } = allowed
  if (gid === undefined && uids === undefined) return false
  if (gid !== undefined && peer.gid !== gid && !peer.groups.includes(gid)) return false
  return uids === undefined || uids.includes(peer.uid)
}

/**
 * A check that admits these peers. Without the addon only our own user can be admitted, by the socket's mode alone; with
 * others configured that is not enough, and the agent does not start.
 */
export async function peerCheck(allowed: AllowedPeers, log: AgentLog): Promise<PeerCheck> {
  const peerCredentials = await loadPeerCredentials(log)
  if (peerCredentials === undefined) {
    if (allowed.gid !== undefined || allowed.uids !== undefined) {
      throw new Error('sockets for other users need the addon; build it with scripts/native')
    }
    return () => true
  }
  const own = process.getuid?.() ?? -1
  // One connection that cannot be judged is refused; it must not end the agent.
  const credentialsOf = (fd: number): PeerCredentials | undefined => {
    try {
      return peerCredentials(fd)
    } catch (error) {
      log.warn('connection refused: the kernel does not tell who it is', { error: String(error) })
      return undefined
    }
  }
  return (socket) => {
    const fd = descriptorOf(socket)
    if (fd === undefined) return false
    const peer = credentialsOf(fd)
    if (peer === undefined) return false
    if (isAllowed(peer, allowed, own)) return true
    log.warn('connection of another user refused', { uid: peer.uid, gid: peer.gid, pid: peer.pid })
    return false
  }
}

async function loadPeerCredentials(log: AgentLog): Promise<((fd: number) => PeerCredentials) | undefined> {
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
