/**
 * Root who changes an installation of other users works as each of them: in the data folder as its owner, so that nothing is
 * left there that its server cannot read, and towards an agent as the agent's own user, the only one it lets administer.
 * Whoever is not root is who they are.
 */
import { statSync } from 'node:fs'

export interface User {
  readonly uid: number
  readonly gid: number
}

/** For the rest of this process, as far as the effective user decides: whose files are made and may be opened. */
export function becomeOwnerOf(folder: string): void {
  const owner = ownerOf(folder)
  if (process.getuid?.() !== 0 || owner === undefined || owner.uid === 0) return
  process.setegid?.(owner.gid)
  process.seteuid?.(owner.uid)
}

/** Whose files we make, where that is not who started us; a child has to be made this user. */
export function actedUser(): User | undefined {
  const [uid, gid] = [process.geteuid?.(), process.getegid?.()]
  if (uid === undefined || gid === undefined || uid === process.getuid?.()) return undefined
  return { uid, gid }
}

/** Runs `work`, which must be synchronous: the kernel asks who we are when it is called, not when it answers. */
export function asRoot<T>(work: () => T): T {
  return as({ uid: 0, gid: 0 }, work)
}

/** The same as the owner of a file or socket; where there is none, as who we are. */
export function asOwnerOf<T>(path: string, work: () => T): T {
  const owner = asRoot(() => ownerOf(path))
  return owner === undefined ? work() : as(owner, work)
}

function as<T>(user: User, work: () => T): T {
  if (process.getuid?.() !== 0) return work()
  const before = actedUser() ?? { uid: 0, gid: process.getgid?.() ?? 0 }
  become(user)
  try {
    return work()
  } finally {
    become(before)
  }
}

/** The group first: only root may change it. */
function become({ uid, gid }: User): void {
  process.seteuid?.(0)
  process.setegid?.(gid)
  process.seteuid?.(uid)
}

function ownerOf(path: string): User | undefined {
  return statSync(path, { throwIfNoEntry: false })
}
