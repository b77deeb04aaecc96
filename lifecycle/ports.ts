/** The ports of a one-machine installation. */

import { createServer } from 'node:net'

/** A port for every listener. */
export interface Ports {
  readonly ca: number
  readonly oidc: number
  readonly rekorV1: number
  readonly rekorV2: number
  readonly timestamp: number
  readonly ct: number
  readonly tuf: number
  readonly metrics: number
}

/** The peers' usual ports, where they have one. */
export const defaultPorts: Ports = {
  ca: 5555,
  oidc: 5556,
  rekorV1: 3000,
  rekorV2: 3003,
  timestamp: 3004,
  ct: 6962,
  tuf: 8080,
  metrics: 2112,
}

/** Free ports of `host`, all held at once while they are chosen, so that no two are the same. */
export async function freePorts(host: string): Promise<Ports> {
  const names = Object.keys(defaultPorts) as (keyof Ports)[]
  const held = await Promise.all(names.map(async () => await hold(host, 0)))
  const ports = Object.fromEntries(names.map((name, at) => [name, held[at]?.port ?? 0]))
  await Promise.all(held.map(({ release }) => release()))
  return ports as unknown as Ports
}

/** Names of `ports` that another program listens on at `host`. */
export async function takenPorts(host: string, ports: Ports): Promise<(keyof Ports)[]> {
  const taken: (keyof Ports)[] = []
  for (const name of Object.keys(ports) as (keyof Ports)[]) {
    if (!(await isFreePort(host, ports[name]))) taken.push(name)
  }
  return taken
}

/** Whether nobody listens on `port` at `host`. */
export async function isFreePort(host: string, port: number): Promise<boolean> {
  try {
    const { release } = await hold(host, port)
    await release()
    return true
  } catch {
    return false
  }
}

async function hold(host: string, port: number): Promise<{ port: number; release: () => Promise<void> }> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port, exclusive: true }, resolve)
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new TypeError('a TCP server without a port')
  return {
    port: address.port,
    release: async () => {
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
      })
    },
  }
}
