/** What HTTP alone costs: our listener, its log line and its metrics, and an answer of `/<bytes>` bytes. */
import { pino } from 'pino'
import { type EndpointAnswer, listen, plainFaults, type Section } from '#http'

const logger = pino({ base: null }, pino.destination({ dest: process.argv[2] ?? '/dev/null', sync: true }))
const bodies = new Map<string, string>()

function answer(bytes: string): EndpointAnswer {
  let body = bodies.get(bytes)
  if (body === undefined) {
    body = 'x'.repeat(Number(bytes))
    bodies.set(bytes, body)
  }
  return { status: 200, headers: { 'content-type': 'application/json' }, body }
}

const section: Section = {
  name: 'echo',
  endpoints: (['GET', 'POST'] as const).map((method) => ({
    method,
    path: '/:bytes',
    limitBytes: method === 'GET' ? 0 : 64 * 1024,
    answer: ({ params }) => answer(params['bytes'] ?? '0'),
  })),
  faults: plainFaults,
}
const listener = await listen({ host: '127.0.0.1', port: 0, sections: [{ section }], logger })
process.send?.({ url: listener.url })
process.once('disconnect', () => process.exit())
