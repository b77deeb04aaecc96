/** `run/endpoints.json`: where a running server is dialled, for commands on the same machine. */
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { servedFolder } from '#trust-root'
import type { LoadedConfig, LogConfig } from './config.ts'
import { splitListen } from './listeners.ts'

/** Replaces the file at once; of each kind of log it names the one that takes entries. */
export function writeEndpoints(file: string, { config, resolve }: LoadedConfig): void {
  const logUrl = (kind: LogConfig['kind']) =>
    config.logs.find((log) => log.kind === kind && !config.logs.some(({ succeeds }) => succeeds === log.name))?.url
  const root =
    config.trustRoot === undefined
      ? undefined
      : readFileSync(join(servedFolder(resolve(config.trustRoot.folder)), '1.root.json'))
  const endpoints = {
    ca: config.ca?.url,
    oidc: config.developmentIssuer?.url,
    rekorV1: logUrl('rekor-v1'),
    rekorV2: logUrl('rekor-v2'),
    tsa: config.timestamp?.url,
    ct: logUrl('ct'),
    tuf: config.trustRoot?.url,
    metrics: config.metrics && metricsUrl(config.metrics),
    rootChecksum: root && createHash('sha256').update(root).digest('hex'),
  }
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  writeFileSync(`${file}.part`, `${JSON.stringify(endpoints, undefined, 2)}\n`, { flush: true })
  renameSync(`${file}.part`, file)
}

/** Metrics have no `url` of their own: whoever scrapes knows the machine. An address for all interfaces cannot be dialled. */
function metricsUrl({ listen, tls }: NonNullable<LoadedConfig['config']['metrics']>): string {
  const { host, port } = splitListen(listen)
  const dialled = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : listen.slice(0, listen.lastIndexOf(':'))
  return `${tls === undefined ? 'http' : 'https'}://${dialled}:${port}`
}
