/**
 * Where an agent's state lies, and who holds it. Beside `state.db` stand two small files:
 *
 * - `place.json`: which file the state is: inode and time of birth, which no copy can keep, and the machine. A copied
 *   folder has another birth, and is refused until an operator says that the original is gone (`chancery agent adopt`):
 *   two guards of one key that do not know of each other are none. An image of a whole volume keeps all of this; only an
 *   anchor catches that.
 * - `holder.json`: the process that has it open, so that a rival can be told at once from a predecessor that is ending.
 *
 * Neither is a secret or a lock: the lock is SQLite's.
 */
import { hash, randomBytes } from 'node:crypto'
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'

const placeFile = z.object({
  instance: z.string(),
  inode: z.string(),
  bornNs: z.string(),
  machine: z.string(),
})

/** As `place.json` has it. */
export type StatePlace = z.infer<typeof placeFile>

const holderFile = z.object({ pid: z.int(), parent: z.int().optional() })

/** What is wrong with the place of this state, and the instance that an adoption must name; undefined if nothing is. */
export function foreignPlace(folder: string): { readonly instance: string; readonly found: string } | undefined {
  const written = readJson(join(folder, 'place.json'), placeFile)
  if (written === undefined) return undefined
  const here = lookAround(folder)
  const { instance } = written
  if (written.inode !== here.inode || written.bornNs !== here.bornNs) {
    return { instance, found: `${join(folder, 'state.db')} is a copy: it is not the file that the agent last used` }
  }
  // Containers and minimal systems have no machine id; then it says nothing.
  if (written.machine !== '' && here.machine !== '' && written.machine !== here.machine) {
    return { instance, found: `${folder} was last used on another machine` }
  }
  return undefined
}

/** Writes down that the state lies here; `instance` is a new one when the state is adopted. */
export function takePlace(folder: string, options: { readonly adopted: boolean }): string {
  const before = readJson(join(folder, 'place.json'), placeFile)
  const here = lookAround(folder)
  const instance = before === undefined || options.adopted ? randomBytes(8).toString('hex') : before.instance
  const place: StatePlace = { instance, ...here }
  if (JSON.stringify(place) !== JSON.stringify(before)) writeJson(join(folder, 'place.json'), place)
  return instance
}

/** Says that this process holds the state; `parent` if it ends with its parent. A full disk must not keep an agent from starting. */
export function noteHolder(folder: string, options: { readonly endsWithParent: boolean }): void {
  try {
    writeJson(join(folder, 'holder.json'), {
      pid: process.pid,
      ...(options.endsWithParent ? { parent: process.ppid } : {}),
    })
  } catch {
    // Only a later refusal comes later.
  }
}

/** The process that holds the state and is not about to end: alive, and its parent too if it ends with that. */
export function lastingHolder(folder: string): number | undefined {
  const holder = readJson(join(folder, 'holder.json'), holderFile)
  if (holder === undefined) return undefined
  const parent = parentOf(holder.pid)
  if (parent === undefined) return undefined
  return holder.parent === undefined || holder.parent === parent ? holder.pid : undefined
}

/** Undefined for a process that is not there, or not in our namespace. */
function parentOf(pid: number): number | undefined {
  try {
    // "pid (name) state ppid …", and the name may hold anything.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' || state === 'X' ? undefined : Number(parent)
  } catch {
    return undefined
  }
}

function lookAround(folder: string): Omit<StatePlace, 'instance'> {
  const { ino, birthtimeNs } = statSync(join(folder, 'state.db'), { bigint: true })
  return { inode: String(ino), bornNs: String(birthtimeNs), machine: machineId() }
}

/** A hash: the id itself is not for others (machine-id(5)). */
function machineId(): string {
  try {
    const id = readFileSync('/etc/machine-id', 'utf8').trim()
    return id === '' ? '' : hash('sha256', `chancery agent ${id}`, 'hex').slice(0, 32)
  } catch {
    return ''
  }
}

function readJson<T>(path: string, schema: z.ZodType<T>): T | undefined {
  try {
    const parsed = schema.safeParse(JSON.parse(readFileSync(path, 'utf8')))
    return parsed.success ? parsed.data : undefined
  } catch {
    return undefined
  }
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(`${path}.part`, `${JSON.stringify(value)}\n`, { mode: 0o600, flush: true })
  renameSync(`${path}.part`, path)
}
