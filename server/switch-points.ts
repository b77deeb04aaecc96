/** Where a test may end the server while it goes over to another key or log: between each two things that are durable. */
export const SWITCH_POINTS = [
  /** New files are there, which nothing names yet. */
  'files-written',
  /** The configuration names what is new; what is old still signs. */
  'configured',
  /** What is new signs; answers of what is old may be under way. */
  'in-force',
  /** The last answer of what is old is out; a log is not frozen yet. */
  'drained',
] as const

export type SwitchPoint = (typeof SWITCH_POINTS)[number]

/** Ends the process with SIGKILL at the point that the configuration names; development only. */
export function passing(
  point: SwitchPoint,
  { switchFaultPoint }: { readonly switchFaultPoint?: SwitchPoint | undefined },
): void {
  if (point === switchFaultPoint) process.kill(process.pid, 'SIGKILL')
}
