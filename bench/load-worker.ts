/** The process that makes requests, sends them, and checks a sample of the answers; told what to do by `loader.ts`. */
import { load, type PreparedRequest } from './http-load.ts'
import { type Kind, type Material, prepare, urlOf, EXPECTED_STATUS } from './requests.ts'

export type Order =
  | { readonly do: 'prepare'; readonly kind: Kind; readonly material: Material; readonly count: number }
  | { readonly do: 'run'; readonly connections: number; readonly seconds: number }
  /** A request whose answer has so many bytes, to a server that does nothing else (`echo-server.ts`). */
  | { readonly do: 'echo'; readonly bytes: Uint8Array; readonly url: string; readonly count: number }
  /** Checks the sample of the last run. */
  | { readonly do: 'verify' }

export interface RunReport {
  readonly seconds: number
  readonly latenciesMs: Float64Array
  readonly failures: Readonly<Record<string, { readonly count: number; readonly example: string }>>
  readonly answerBytes: number
}

export interface VerifyReport {
  readonly checked: number
}

let prepared:
  | { readonly url: string; readonly requests: readonly PreparedRequest[]; readonly status: number }
  | undefined
let sample: readonly { readonly request: PreparedRequest; readonly body: Uint8Array }[] = []

async function obey(order: Order): Promise<unknown> {
  if (order.do === 'prepare') {
    const { kind, material, count } = order
    const requests = prepare(kind, material, count)
    prepared = { url: urlOf(kind, material.endpoints), requests, status: EXPECTED_STATUS[kind] }
    const bytes = requests.reduce((sum, request) => sum + request.bytes.length, 0)
    return { requestBytes: bytes / requests.length, first: requests[0]?.bytes }
  }
  if (order.do === 'echo') {
    const request = { bytes: order.bytes, verify: () => undefined }
    prepared = { url: order.url, requests: Array.from({ length: order.count }, () => request), status: 200 }
    return {}
  }
  if (order.do === 'verify') {
    for (const { request, body } of sample) request.verify(body)
    return { checked: sample.length } satisfies VerifyReport
  }
  if (prepared === undefined) throw new Error('nothing was prepared')
  const { url, requests, status } = prepared
  const { connections, seconds } = order
  const result = await load({ url, requests, connections, seconds, expectedStatus: status })
  sample = result.sample
  const { latenciesMs, failures, answerBytes } = result
  return { seconds: result.seconds, latenciesMs, failures, answerBytes } satisfies RunReport
}

process.on('message', (order: Order) => {
  obey(order).then(
    (value) => process.send?.({ value }),
    (error: unknown) => process.send?.({ error: error instanceof Error ? error.message : String(error) }),
  )
})
process.once('disconnect', () => process.exit())
