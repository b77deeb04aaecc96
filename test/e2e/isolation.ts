import { readFileSync } from 'node:fs'

/** Packets that tried to leave the network namespace of `scripts/isolated` so far. Throws outside of one. */
export function packetsThatLeft(): number {
  // /proc/self/net is this process's namespace; /sys would show that of whoever mounted it.
  const line = /^\s*outside:\s*(.*)$/m.exec(readFileSync('/proc/self/net/dev', 'utf8'))
  if (line === null || process.env['CHANCERY_ISOLATED'] !== '1') {
    throw new Error('these tests run in a network namespace with no way out: start them with scripts/test e2e')
  }
  // After eight columns of receiving: bytes, packets, errors, drops.
  const columns = (line[1] ?? '').trim().split(/\s+/).map(Number)
  return (columns[9] ?? 0) + (columns[10] ?? 0) + (columns[11] ?? 0)
}
