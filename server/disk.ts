/**
 * The disks under the server: refuses new work while there is still room to finish what was begun. Certificates, of
 * which each needs an entry in the CT log, are refused later than uploads, which anybody may send. Reads always go on,
 * and work is taken again by itself once there is room. What an operator sees are alarms.
 */
import { constants } from 'node:fs'
import { access, stat, statfs } from 'node:fs/promises'
import type { Alarms, Code } from '#alarms'

/** A level of free space: a number of bytes, or a share of the volume. The larger counts if both are given. */
export interface Level {
  readonly bytes?: number
  readonly percent?: number
}

export interface DiskSettings {
  /** Below it Rekor takes no uploads. Default: 5 % of a volume, at most 512 MiB. */
  readonly refuseUploadsBelow?: Level | undefined
  /** Below it no certificates are issued either. Default: 2 % of a volume, at most 256 MiB. */
  readonly refuseIssuanceBelow?: Level | undefined
  /** A commit that takes longer is the alarm `disk_slow`. Default: 2. */
  readonly slowSeconds?: number | undefined
}

export interface VolumeState {
  /** One of the folders on it. */
  readonly path: string
  /** `low`: no uploads. `full`, `read_only`: nothing that writes. */
  readonly state: 'sound' | 'low' | 'full' | 'read_only'
  readonly freeBytes: number
  readonly totalBytes: number
}

export interface WatchedDisk {
  /** Why uploads are refused just now, as prose for clients; undefined if they are not. */
  readonly uploads: () => string | undefined
  /** Why nothing is issued or logged at all. */
  readonly issuance: () => string | undefined
  /** As last looked at. */
  volumes(): readonly VolumeState[]
  /** A write that waits for the disk begins; the returned function says that it is over. `subject` is a log's name. */
  writing(subject: string): () => void
  /** Looks now instead of at the next moment. */
  look(): Promise<void>
  close(): void
}

const MIB = 1024 * 1024
const DEFAULTS = {
  refuseUploadsBelow: { percent: 5, atMost: 512 * MIB },
  refuseIssuanceBelow: { percent: 2, atMost: 256 * MIB },
  slowSeconds: 2,
} as const

const LOOK_EVERY_MS = 1000
/** A volume within this many times of a level is looked at more often: it fills in between. */
const NEAR = 4
const LOOK_OFTEN_MS = 250
/** A level that was passed must be exceeded by this much, or work would be taken and refused in turns. */
const HYSTERESIS = 1.1
/** Files that a volume must have room for: a write-ahead log, a generation of the trust root. */
const FEWEST_INODES = 64
/** A disk is called slow this long after its last slow write. */
const SLOW_REMEMBERED_MS = 30_000

/** Watches the volumes that hold `folders` until `close`. Resolves after the first look. */
export async function watchDisk(
  folders: readonly string[],
  settings: DiskSettings,
  alarms: Pick<Alarms, 'set'>,
): Promise<WatchedDisk> {
  const watch = new DiskWatch(folders, settings, alarms)
  await watch.look()
  watch.start()
  return watch
}

class DiskWatch implements WatchedDisk {
  readonly #folders: readonly string[]
  readonly #settings: DiskSettings
  readonly #alarms: Pick<Alarms, 'set'>
  #volumes: readonly VolumeState[] = []
  #timer: NodeJS.Timeout | undefined
  #closed = false
  /** Writes under way: when each began, on the monotonic clock. */
  readonly #writing = new Map<symbol, { readonly subject: string; readonly sinceMs: number }>()
  readonly #slow = new Map<string, { readonly atMs: number; readonly tookMs: number }>()

  constructor(folders: readonly string[], settings: DiskSettings, alarms: Pick<Alarms, 'set'>) {
    this.#folders = folders
    this.#settings = settings
    this.#alarms = alarms
  }

  readonly uploads = (): string | undefined => {
    const found = this.#blocked() ?? this.#volumes.find(({ state }) => state === 'low')
    return found === undefined ? undefined : refusal(found)
  }

  readonly issuance = (): string | undefined => {
    const found = this.#blocked()
    return found === undefined ? undefined : refusal(found)
  }

  volumes(): readonly VolumeState[] {
    return this.#volumes
  }

  writing(subject: string): () => void {
    const write = Symbol(subject)
    const sinceMs = performance.now()
    this.#writing.set(write, { subject, sinceMs })
    return () => {
      this.#writing.delete(write)
      this.#took(subject, performance.now() - sinceMs)
    }
  }

  async look(): Promise<void> {
    const before = this.#volumes
    const found: VolumeState[] = []
    const devices = new Set<number>()
    for (const path of this.#folders) {
      const { device, ...volume } = await this.#lookAt(path, before)
      if (device !== undefined && devices.has(device)) continue
      if (device !== undefined) devices.add(device)
      found.push(volume)
    }
    this.#volumes = found
    this.#tell()
  }

  start(): void {
    const near = this.#volumes.some(({ freeBytes, totalBytes }) => freeBytes < NEAR * this.#levels(totalBytes).uploads)
    this.#timer = setTimeout(
      () => {
        // A volume that hangs is not asked again until it has answered.
        void this.look().finally(() => {
          if (!this.#closed) this.start()
        })
      },
      near ? LOOK_OFTEN_MS : LOOK_EVERY_MS,
    ).unref()
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  #blocked(): VolumeState | undefined {
    return this.#volumes.find(({ state }) => state === 'full' || state === 'read_only')
  }

  async #lookAt(path: string, before: readonly VolumeState[]): Promise<VolumeState & { device?: number }> {
    try {
      const [{ dev: device }, space] = await Promise.all([stat(path), statfs(path)])
      const freeBytes = space.bavail * space.bsize
      const totalBytes = space.blocks * space.bsize
      const last = before.find((volume) => volume.path === path)?.state ?? 'sound'
      const inodes = space.files > 0 ? space.ffree : Number.POSITIVE_INFINITY
      const state = (await isWritable(path)) ? this.#stateOf({ freeBytes, totalBytes, inodes }, last) : 'read_only'
      return { path, device, state, freeBytes, totalBytes }
    } catch {
      // A volume that is not there any more.
      return { path, state: 'read_only', freeBytes: 0, totalBytes: 0 }
    }
  }

  #stateOf(
    { freeBytes, totalBytes, inodes }: { freeBytes: number; totalBytes: number; inodes: number },
    last: VolumeState['state'],
  ): VolumeState['state'] {
    const { uploads, issuance } = this.#levels(totalBytes)
    const below = (level: number, entered: boolean) => freeBytes < level * (entered ? HYSTERESIS : 1)
    if (inodes < FEWEST_INODES || below(issuance, last === 'full')) return 'full'
    return below(uploads, last === 'low' || last === 'full') ? 'low' : 'sound'
  }

  #levels(totalBytes: number): { readonly uploads: number; readonly issuance: number } {
    const { refuseUploadsBelow, refuseIssuanceBelow } = this.#settings
    const level = (set: Level | undefined, { percent, atMost }: { percent: number; atMost: number }) =>
      set === undefined
        ? Math.min((totalBytes * percent) / 100, atMost)
        : Math.max(set.bytes ?? 0, (totalBytes * (set.percent ?? 0)) / 100)
    const issuance = level(refuseIssuanceBelow, DEFAULTS.refuseIssuanceBelow)
    // Never the other way round, whatever is set: an upload must not take the room of a certificate.
    return { issuance, uploads: Math.max(issuance, level(refuseUploadsBelow, DEFAULTS.refuseUploadsBelow)) }
  }

  #took(subject: string, tookMs: number): void {
    if (tookMs >= this.#slowMs()) this.#slow.set(subject, { atMs: performance.now(), tookMs })
  }

  #slowMs(): number {
    return (this.#settings.slowSeconds ?? DEFAULTS.slowSeconds) * 1000
  }

  #tell(): void {
    for (const { path, state, freeBytes, totalBytes } of this.#volumes) {
      const space = `${mebibytes(freeBytes)} of ${mebibytes(totalBytes)} MiB are free on the volume of ${path}`
      const set = (code: Code, on: VolumeState['state'], message: string) =>
        this.#alarms.set(code, path, state === on ? message : undefined)
      set('disk_low', 'low', `${space}: uploads are refused, certificates are still issued; make room`)
      set('disk_full', 'full', `${space}: nothing is written any more, reads go on; make room`)
      set('disk_read_only', 'read_only', `the volume of ${path} cannot be written: reads go on; see the kernel's log`)
    }
    for (const { subject, sinceMs } of this.#writing.values()) this.#took(subject, performance.now() - sinceMs)
    for (const [subject, { atMs, tookMs }] of this.#slow) {
      const over = performance.now() - atMs > SLOW_REMEMBERED_MS
      if (over) this.#slow.delete(subject)
      const message = `the disk took ${(tookMs / 1000).toFixed(1)} s for one write of ${subject}; nothing is lost, clients are told to wait`
      this.#alarms.set('disk_slow', subject, over ? undefined : message)
    }
  }
}

/** False on a read-only filesystem, for root too. */
async function isWritable(path: string): Promise<boolean> {
  try {
    await access(path, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function refusal({ state }: VolumeState): string {
  return state === 'read_only' ? 'the disk is read-only; retry later' : 'the disk is nearly full; retry later'
}

function mebibytes(bytes: number): string {
  return Math.floor(bytes / MIB).toString()
}

const UNITS = { B: 1, KIB: 1024, MIB, GIB: 1024 * MIB, TIB: 1024 * 1024 * MIB } as const

/** Reads `512MiB`, `2GiB` or `5%`; undefined if it is neither. */
export function parseLevel(text: string): Level | undefined {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)\s*(%|[KMGT]iB|B)$/i.exec(text) ?? []
  if (number === '') return undefined
  if (unit === '%') return Number(number) <= 50 ? { percent: Number(number) } : undefined
  return { bytes: Number(number) * UNITS[unit.toUpperCase() as keyof typeof UNITS] } // the pattern names these alone
}
