/** The last line of a frozen log's last checkpoint (rekor-tiles, cmd/freeze-checkpoint); Go's time.UnixDate, in UTC. */
export function frozenLine(atMs: number): string {
  const [day = '', date = '', month = '', year = '', time = ''] = new Date(atMs).toUTCString().split(/,? /)
  return `Log frozen — ${day} ${month} ${String(Number(date)).padStart(2)} ${time} UTC ${year}`
}
