import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request as httpsRequest } from 'node:https'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { connect as tlsConnect } from 'node:tls'
import { afterEach, describe, expect, test } from 'vitest'
import { BodyBudget } from './body.ts'
import type { Endpoint, EndpointAnswer, EndpointRequest, Section } from './endpoint.ts'
import { plain, plainFaults } from './faults.ts'
import { listen, ListenError, type Listener, type ListenOptions } from './listener.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).toReversed()) await close()
})

interface Line {
  readonly level: string
  readonly message: string
  readonly fields: Record<string, unknown>
}

/** Collects log lines as pino would be handed them. */
function recorder(): { lines: Line[]; logger: NonNullable<ListenOptions['logger']> } {
  const lines: Line[] = []
  const at =
    (level: string) =>
    (fields: unknown, message?: string): void => {
      lines.push({ level, message: message ?? '', fields: fields as Record<string, unknown> })
    }
  const logger = { info: at('info'), warn: at('warn'), error: at('error') }
  return { lines, logger }
}

function section(endpoints: readonly Endpoint[], extra: Partial<Section> = {}): Section {
  return { name: 'test', endpoints, faults: plainFaults, ...extra }
}

async function serving(
  endpoints: readonly Endpoint[],
  extra: Partial<ListenOptions> & { section?: Partial<Section> } = {},
): Promise<Listener> {
  const { section: sectionExtra, ...options } = extra
  const listener = await listen({
    host: '127.0.0.1',
    port: 0,
    sections: [{ section: section(endpoints, sectionExtra) }],
    ...options,
  })
  open.push(() => listener.close())
  return listener
}

const echo: Endpoint = {
  method: 'POST',
  path: '/echo',
  limitBytes: 1_000,
  answer: (request) => ({ status: 200, headers: { 'content-type': 'application/octet-stream' }, body: request.body }),
}

const seen =
  (requests: EndpointRequest[]) =>
  (request: EndpointRequest): EndpointAnswer => {
    requests.push(request)
    return plain(200, 'seen')
  }

type Body = string | ReadableStream<Uint8Array>

/** A raw connection: `answer` waits until the peer closes, `until` for a text. */
function raw(port: number): {
  socket: Socket
  answer: () => Promise<string>
  until: (text: string) => Promise<string>
} {
  const socket = connect(port, '127.0.0.1')
  let received = ''
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.on('data', (chunk) => {
    received += chunk.toString('latin1')
  })
  socket.on('error', () => {})
  open.push(() => socket.destroy())
  return {
    socket,
    answer: async () => {
      await closed
      return received
    },
    until: async (text) => {
      while (!received.includes(text)) {
        if (socket.destroyed) throw new Error(`connection closed before ${text}: ${received}`)
        await delay(2)
      }
      return received
    },
  }
}

async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 15_000; !(await holds()); await delay(2)) {
    if (Date.now() > deadline) throw new Error(`did not come to hold: ${String(holds)}`)
  }
}

describe('what an endpoint is given', () => {
  test.each([
    ['/things/a', { name: 'a' }, '/things/a'],
    ['//things///a/', { name: 'a' }, '/things/a'],
    ['/things/a%20b%2fc', { name: 'a b/c' }, '/things/a b/c'],
    ['/things/%25', { name: '%' }, '/things/%'],
    ['/things/%C3%A9?x=1', { name: 'é' }, '/things/é'],
  ])('folds and decodes %s once', async (target, params, path) => {
    const requests: EndpointRequest[] = []
    const listener = await serving([{ method: 'GET', path: '/things/:name', limitBytes: 0, answer: seen(requests) }])
    const { socket, until } = raw(listener.port)
    socket.write(`GET ${target} HTTP/1.1\r\nHost: h\r\n\r\n`)
    expect(await until('seen')).toMatch(/^HTTP\/1.1 200 /)
    expect(requests[0]).toMatchObject({ params, path, method: 'GET' })
  })

  test('a last *name takes the rest, and absolute-form targets and queries work', async () => {
    const requests: EndpointRequest[] = []
    const listener = await serving([{ method: 'GET', path: '/files/*rest', limitBytes: 0, answer: seen(requests) }])
    const { socket, until } = raw(listener.port)
    socket.write('GET http://other.example//files/a/b.json?q=a%26b&q=2 HTTP/1.1\r\nHost: h\r\n\r\n')
    await until('seen')
    expect(requests[0]?.params).toEqual({ rest: 'a/b.json' })
    expect(requests[0]?.query.getAll('q')).toEqual(['a&b', '2'])
  })

  test.each([
    '/things/%',
    '/things/%zz',
    '/things/%ff',
    '/things/%00',
    '/a/../things/x',
    '/things/%2e%2e',
    '/./things/x',
  ])('refuses the path %s before any endpoint', async (target) => {
    const requests: EndpointRequest[] = []
    const listener = await serving([{ method: 'GET', path: '/*all', limitBytes: 0, answer: seen(requests) }])
    const { socket, answer } = raw(listener.port)
    socket.write(`GET ${target} HTTP/1.1\r\nHost: h\r\n\r\n`)
    expect(await answer()).toMatch(/^HTTP\/1.1 400 /)
    expect(requests).toEqual([])
  })

  test('gets whole bodies, declared and chunked, and none when there is none', async () => {
    const listener = await serving([echo])
    const post = (body?: Body): Promise<Response> =>
      fetch(`${listener.url}/echo`, {
        method: 'POST',
        ...(body === undefined ? {} : { body }),
        duplex: 'half',
      })
    expect(await (await post('hello')).text()).toBe('hello')
    expect(await (await post()).text()).toBe('')
    const pieces = ReadableStream.from([new Uint8Array([104]), new Uint8Array([105])])
    expect(await (await post(pieces)).text()).toBe('hi')
  })
})

describe('answers', () => {
  test('HEAD is answered for GET with the length and without the body', async () => {
    const listener = await serving([{ method: 'GET', path: '/x', limitBytes: 0, answer: () => plain(200, 'four') }])
    const answer = await fetch(`${listener.url}/x`, { method: 'HEAD' })
    expect([answer.status, answer.headers.get('content-length'), await answer.text()]).toEqual([200, '5', ''])
  })

  test('only what the answer says becomes its content type', async () => {
    const listener = await serving([
      { method: 'GET', path: '/x', limitBytes: 0, answer: () => ({ status: 200, body: '<p>' }) },
    ])
    expect((await fetch(`${listener.url}/x`)).headers.get('content-type')).toBeNull()
  })

  test('unknown paths and wrong methods are answered in the form of the section that has the path', async () => {
    const faults = (name: string): Section['faults'] => ({
      ...plainFaults,
      notFound: (path) => plain(404, `${name} has no ${path}`),
      methodNotAllowed: (method, path) => plain(501, `${name} cannot ${method} ${path}`),
    })
    const endpoint = (path: string): Endpoint => ({
      method: 'POST',
      path,
      limitBytes: 0,
      answer: () => plain(200, path),
    })
    const listener = await serving([], {
      sections: [
        { section: { name: 'one', endpoints: [endpoint('/one')], faults: faults('one') } },
        { section: { name: 'two', endpoints: [endpoint('/two')], faults: faults('two') } },
      ],
    })
    const ask = async (method: string, path: string): Promise<string> => {
      const answer = await fetch(listener.url + path, { method })
      return `${answer.status} ${await answer.text()}`
    }
    expect(await ask('POST', '/two')).toBe('200 /two\n')
    expect(await ask('GET', '/two')).toBe('501 two cannot GET /two\n')
    expect(await ask('DELETE', '/one')).toBe('501 one cannot DELETE /one\n')
    expect(await ask('GET', '/three')).toBe('404 one has no /three\n')
    expect(await ask('GET', '/ONE')).toBe('404 one has no /ONE\n')
  })

  test('one port serves several sections by Host', async () => {
    const named = (name: string): Section =>
      section([{ method: 'GET', path: '/who', limitBytes: 0, answer: () => plain(200, name) }], { name })
    const listener = await serving([], {
      sections: [
        { section: named('ca'), hosts: ['ca.example'] },
        { section: named('ct'), hosts: ['ct.example'] },
        { section: named('rest') },
      ],
    })
    const ask = async (host: string): Promise<string> => {
      const { socket, answer } = raw(listener.port)
      socket.write(`GET /who HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
      return (await answer()).split('\r\n\r\n')[1] ?? ''
    }
    expect(await ask('ct.example')).toBe('ct\n')
    expect(await ask('CA.example:8080')).toBe('ca\n')
    expect(await ask('other.example')).toBe('rest\n')
  })

  test('sections come to a running listener; what is under way ends where it began, and no connection is cut', async () => {
    const gate = Promise.withResolvers<void>()
    const named = (name: string): Section =>
      section(
        [
          { method: 'GET', path: '/who', limitBytes: 0, answer: () => plain(200, name) },
          {
            method: 'GET',
            path: '/slow',
            limitBytes: 0,
            answer: async () => {
              await gate.promise
              return plain(200, name)
            },
          },
        ],
        { name },
      )
    const listener = await serving([], { sections: [{ section: named('former') }] })
    const { socket, answer } = raw(listener.port)
    socket.write('GET /slow HTTP/1.1\r\nHost: next.example\r\n\r\n')
    await delay(50)
    listener.mount([
      { section: named('former'), hosts: ['former.example'] },
      { section: named('next'), hosts: ['next.example'] },
    ])
    socket.write('GET /who HTTP/1.1\r\nHost: next.example\r\nConnection: close\r\n\r\n')
    gate.resolve()
    const bodies = (await answer()).split('\r\n\r\n')
    expect(bodies[1]).toMatch(/^former\n/)
    expect(bodies[2]).toBe('next\n')
    const other = raw(listener.port)
    other.socket.write('GET /who HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n')
    expect(await other.answer()).toMatch(/^HTTP\/1\.1 404 /)
  })

  test('a preflight names the headers that the section takes, and any origin may read', async () => {
    const listener = await serving([echo], { section: { corsRequestHeaders: ['authorization'] } })
    const headers = { origin: 'http://a.example', 'access-control-request-method': 'POST' }
    const answer = await fetch(`${listener.url}/echo`, { method: 'OPTIONS', headers })
    expect(answer.status).toBe(204)
    expect(answer.headers.get('access-control-allow-origin')).toBe('*')
    expect(answer.headers.get('access-control-allow-headers')).toContain('authorization')
    expect((await fetch(`${listener.url}/echo`, { method: 'POST' })).headers.get('access-control-allow-origin')).toBe(
      '*',
    )
  })

  test('an unknown error is a fixed text with the request id; its detail goes to the log alone', async () => {
    const { lines, logger } = recorder()
    const boom: Endpoint = {
      method: 'GET',
      path: '/boom',
      limitBytes: 0,
      answer: () => {
        throw new Error('the secret is 42')
      },
    }
    const listener = await serving([boom], { logger })
    const answer = await fetch(`${listener.url}/boom`, { headers: { 'x-request-id': 'req-7' } })
    expect([answer.status, await answer.text()]).toEqual([500, 'internal error, request req-7\n'])
    await eventually(() => lines.length === 1)
    expect(lines[0]).toMatchObject({ level: 'error', message: 'request', fields: { requestId: 'req-7', status: 500 } })
    expect(String(lines[0]?.fields['err'])).toContain('the secret is 42')
  })

  test('an answer with a header that cannot be sent is an unknown error, not a hung request', async () => {
    const bad: Endpoint = { method: 'GET', path: '/x', limitBytes: 0, answer: () => plain(200, 'x', { etag: 'a\nb' }) }
    const listener = await serving([bad])
    expect((await fetch(`${listener.url}/x`)).status).toBe(500)
  })

  test.each(['', 'with space', 'a'.repeat(129), 'é'])('replaces the request id %j', async (sent) => {
    const listener = await serving([echo])
    const { socket, until } = raw(listener.port)
    socket.write(`POST /echo HTTP/1.1\r\nHost: h\r\nX-Request-Id: ${sent}\r\nContent-Length: 1\r\n\r\n!`)
    expect(await until('!')).toMatch(/x-request-id: [\w-]{12}-[0-9a-z]+\r\n/i)
  })
})

describe('one log line a request', () => {
  test('holds the pattern and the path, and neither query nor headers', async () => {
    const { lines, logger } = recorder()
    const listener = await serving(
      [{ method: 'GET', path: '/x/:y', limitBytes: 0, answer: () => ({ ...plain(200, 'ok'), log: { issuer: 'i' } }) }],
      { logger },
    )
    await (await fetch(`${listener.url}/x/1?token=hush`, { headers: { authorization: 'Bearer hush' } })).text()
    await eventually(() => lines.length === 1)
    expect(lines[0]?.fields).toMatchObject({
      endpoint: '/x/:y',
      path: '/x/1',
      status: 200,
      delivered: true,
      issuer: 'i',
    })
    expect(JSON.stringify(lines)).not.toContain('hush')
  })

  test('is written for each of many pipelined requests, answered in order', async () => {
    const { lines, logger } = recorder()
    const listener = await serving(
      [
        {
          method: 'GET',
          path: '/:n',
          limitBytes: 0,
          answer: async ({ params }) => {
            if (params['n'] === '0') await delay(20)
            return plain(200, `<${params['n']}>`)
          },
        },
      ],
      { logger },
    )
    const { socket, until } = raw(listener.port)
    socket.write([0, 1, 2, 3].map((n) => `GET /${n} HTTP/1.1\r\nHost: h\r\n\r\n`).join(''))
    expect((await until('<3>')).match(/<\d>/g)).toEqual(['<0>', '<1>', '<2>', '<3>'])
    await eventually(() => lines.length === 4)
    await delay(20)
    expect(lines).toHaveLength(4)
  })

  test('is written for every pipelined request of a connection that is cut', async () => {
    const { lines, logger } = recorder()
    let begun = 0
    const listener = await serving(
      [
        {
          method: 'GET',
          path: '/:n',
          limitBytes: 0,
          answer: async ({ signal }) => {
            begun++
            await new Promise((resolve) => signal.addEventListener('abort', resolve))
            return plain(200, 'too late')
          },
        },
      ],
      { logger },
    )
    const { socket } = raw(listener.port)
    socket.write([0, 1, 2].map((n) => `GET /${n} HTTP/1.1\r\nHost: h\r\n\r\n`).join(''))
    await eventually(() => begun === 3)
    socket.resetAndDestroy()
    await eventually(() => lines.length === 3)
    await delay(20)
    expect(lines.map((line) => line.fields['delivered'])).toEqual([false, false, false])
  })
})

describe('delivered', () => {
  function counting(answerMs: number): { endpoint: Endpoint; state: { begun: number; delivered: number } } {
    const state = { begun: 0, delivered: 0 }
    const endpoint: Endpoint = {
      method: 'POST',
      path: '/x',
      limitBytes: 10,
      answer: async () => {
        state.begun++
        await delay(answerMs)
        return { ...plain(201, 'made'), delivered: () => state.delivered++ }
      },
    }
    return { endpoint, state }
  }

  test.each(['keep-alive', 'close'])(
    'is called once for an answer that was taken (Connection: %s)',
    async (connection) => {
      const { endpoint, state } = counting(0)
      const listener = await serving([endpoint])
      const { socket, until } = raw(listener.port)
      socket.write(`POST /x HTTP/1.1\r\nHost: h\r\nConnection: ${connection}\r\nContent-Length: 0\r\n\r\n`)
      await until('made')
      await eventually(() => state.delivered === 1)
    },
  )

  test.each(['resetAndDestroy', 'destroy', 'end'] as const)(
    'is not called after the client went away (%s)',
    async (go) => {
      const { lines, logger } = recorder()
      const { endpoint, state } = counting(40)
      const listener = await serving([endpoint], { logger })
      const { socket } = raw(listener.port)
      socket.write('POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab')
      await eventually(() => state.begun === 1)
      socket[go]()
      await eventually(() => lines.length === 1)
      await delay(60)
      expect([state.delivered, lines[0]?.fields['delivered']]).toEqual([0, false])
    },
  )
})

describe('bounds', () => {
  test.each([
    ['declared', 'Content-Length: 1001\r\n\r\n' + 'a'.repeat(1_001)],
    ['declared far beyond what is sent', 'Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n'],
    ['chunked', `Transfer-Encoding: chunked\r\n\r\n${`1f4\r\n${'a'.repeat(500)}\r\n`.repeat(3)}0\r\n\r\n`],
  ])('refuses an oversized body (%s) and never calls the endpoint', async (_, rest) => {
    let called = false
    const listener = await serving([{ ...echo, answer: () => ((called = true), plain(200, 'x')) }])
    const { socket, answer } = raw(listener.port)
    socket.write(`POST /echo HTTP/1.1\r\nHost: h\r\n${rest}`)
    expect(await answer()).toMatch(/^HTTP\/1.1 413 [^]*larger than 1000 bytes/)
    expect(called).toBe(false)
  })

  test('asks for a body that may come, when the client waits to be asked', async () => {
    const listener = await serving([echo])
    const { socket, until } = raw(listener.port)
    socket.write('POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n')
    await until('100 Continue')
    socket.write('ok')
    expect(await until('\r\nok')).toContain('HTTP/1.1 200 ')
  })

  test('a body that does not come in time is answered by timedOut', async () => {
    const listener = await serving([echo], { limits: { bodyMs: 60 } })
    const { socket, answer } = raw(listener.port)
    socket.write('POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\na')
    const drip = setInterval(() => socket.write('a'), 20)
    expect(await answer()).toMatch(/^HTTP\/1.1 408 [^]*did not arrive in time/)
    clearInterval(drip)
  })

  test('headers that do not come in time end the connection', async () => {
    const listener = await serving([echo], { limits: { headersMs: 100 } })
    const { socket, answer } = raw(listener.port)
    const drip = setInterval(() => socket.write('a'), 30)
    socket.write('POST /echo HTTP/1.1\r\nX: ')
    expect(await answer()).toMatch(/^HTTP\/1.1 408 /)
    clearInterval(drip)
  })

  test.each([
    ['one large header', `X: ${'a'.repeat(40_000)}\r\n`],
    ['many small headers', 'X: a\r\n'.repeat(10_000)],
  ])('a header bomb is refused (%s)', async (_, headers) => {
    const { lines, logger } = recorder()
    const listener = await serving([echo], { logger })
    const { socket, answer } = raw(listener.port)
    socket.write(`POST /echo HTTP/1.1\r\nHost: h\r\n${headers}\r\n`)
    expect(await answer()).toMatch(/^HTTP\/1.1 431 /)
    expect(lines).toMatchObject([{ message: 'connection refused', fields: { reason: 'headers_too_large' } }])
  })

  test.each([
    'nonsense\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
    'POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost : h\r\n\r\n',
  ])('refuses malformed input %j', async (input) => {
    const listener = await serving([echo])
    const { socket, answer } = raw(listener.port)
    socket.write(input)
    expect(await answer()).toMatch(/^HTTP\/1.1 400 /)
  })

  test('a chunked body that is malformed never reaches the endpoint', async () => {
    const { lines, logger } = recorder()
    let called = false
    const listener = await serving([{ ...echo, answer: () => ((called = true), plain(200, 'x')) }], { logger })
    const { socket, answer } = raw(listener.port)
    socket.write('POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n')
    await answer()
    await eventually(() => lines.some((line) => line.message === 'request'))
    expect(called).toBe(false)
  })

  test('bodies share a budget and small ones are not crowded out by large ones', async () => {
    const bodies = new BodyBudget(6 << 20)
    const large: Endpoint = { ...echo, path: '/large', limitBytes: 32 << 20, answer: () => plain(200, 'large') }
    const listener = await serving([echo, large], { limits: { bodies } })
    const { socket } = raw(listener.port)
    socket.write(`POST /large HTTP/1.1\r\nHost: h\r\nContent-Length: ${4 << 20}\r\n\r\n`)
    socket.write(Buffer.alloc((4 << 20) - 100_000))
    await eventually(() => bodies.heldBytes > 3 << 20)
    const second = await fetch(`${listener.url}/large`, { method: 'POST', body: Buffer.alloc(3 << 20) })
    expect([second.status, second.headers.get('retry-after')]).toEqual([503, '1'])
    expect((await fetch(`${listener.url}/echo`, { method: 'POST', body: 'small' })).status).toBe(200)
    socket.destroy()
    await eventually(() => bodies.heldBytes === 0)
    expect((await fetch(`${listener.url}/large`, { method: 'POST', body: Buffer.alloc(3 << 20) })).status).toBe(200)
    await eventually(() => bodies.heldBytes === 0)
  })

  test('more requests than may be under way are told to come back', async () => {
    let release = (): void => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    let begun = 0
    const slow: Endpoint = {
      method: 'GET',
      path: '/slow',
      limitBytes: 0,
      answer: async () => {
        begun++
        await held
        return plain(200, 'done')
      },
    }
    const listener = await serving([slow], { limits: { requestsInFlight: 2 } })
    const first = [fetch(`${listener.url}/slow`), fetch(`${listener.url}/slow`)]
    await eventually(() => begun === 2)
    expect((await fetch(`${listener.url}/slow`)).status).toBe(503)
    release()
    expect((await Promise.all(first)).map((answer) => answer.status)).toEqual([200, 200])
    expect((await fetch(`${listener.url}/slow`)).status).toBe(200)
  })

  test('an answer that does not come in time is overloaded, and its signal aborts', async () => {
    let aborted = false
    let delivered = false
    const listener = await serving(
      [
        {
          method: 'GET',
          path: '/late',
          limitBytes: 0,
          answer: async ({ signal }) => {
            await new Promise((resolve) => signal.addEventListener('abort', resolve))
            aborted = true
            return { ...plain(200, 'late'), delivered: () => (delivered = true) }
          },
        },
      ],
      { limits: { answerMs: 30 } },
    )
    expect((await fetch(`${listener.url}/late`)).status).toBe(503)
    await eventually(() => aborted)
    expect(delivered).toBe(false)
  })

  test('connections over the cap are dropped, and idle ones give way', async () => {
    const listener = await serving([echo], { limits: { connections: 2 } })
    const idle = [raw(listener.port), raw(listener.port)]
    for (const { socket, until } of idle) {
      socket.write('POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n!')
      await until('!')
    }
    let idleOnes = idle.length
    for (const { answer } of idle) {
      void answer().then(() => {
        idleOnes -= 1
      })
    }
    // A connection is idle a moment after its client has the answer, and idle ones are looked for once a second.
    await eventually(async () => {
      expect(await raw(listener.port).answer()).toBe('')
      return idleOnes === 0
    })
    expect((await fetch(`${listener.url}/echo`, { method: 'POST', body: 'in' })).status).toBe(200)
  })

  test('a client that does not take its answer is cut', async () => {
    const { lines, logger } = recorder()
    const big: Endpoint = {
      method: 'GET',
      path: '/big',
      limitBytes: 0,
      answer: () => ({ status: 200, body: new Uint8Array(64 << 20) }),
    }
    const listener = await serving([big], { logger, limits: { deliveryMs: 80 } })
    const { socket } = raw(listener.port)
    socket.pause()
    socket.write('GET /big HTTP/1.1\r\nHost: h\r\n\r\n')
    await eventually(() => lines.length === 1)
    expect(lines[0]?.fields).toMatchObject({ delivered: false, note: 'answer_not_taken' })
  })
})

describe('close', () => {
  test('finishes what was accepted, refuses what comes later, and cuts idle connections', async () => {
    let begun = false
    const slow: Endpoint = {
      method: 'GET',
      path: '/slow',
      limitBytes: 0,
      answer: async () => {
        begun = true
        await delay(80)
        return plain(200, 'finished')
      },
    }
    const listener = await serving([slow])
    const unused = raw(listener.port)
    const { socket, answer } = raw(listener.port)
    socket.write('GET /slow HTTP/1.1\r\nHost: h\r\n\r\n')
    await eventually(() => begun)
    const closed = listener.close()
    await expect(fetch(`${listener.url}/slow`)).rejects.toThrow()
    await closed
    expect(await answer()).toContain('finished')
    expect(await unused.answer()).toBe('')
    await listener.close()
  })

  test('cuts what does not finish in time', async () => {
    const stuck: Endpoint = { method: 'GET', path: '/x', limitBytes: 0, answer: () => new Promise(() => {}) }
    const { lines, logger } = recorder()
    const listener = await serving([stuck], { logger, limits: { closeMs: 60, answerMs: 10_000 } })
    const { socket, answer } = raw(listener.port)
    socket.write('GET /x HTTP/1.1\r\nHost: h\r\n\r\n')
    await delay(20)
    await listener.close()
    expect(await answer()).toBe('')
    await eventually(() => lines.length === 1)
  })
})

describe('TLS', () => {
  function certificate(folder: string, name: string): { certFile: string; keyFile: string } {
    const files = { certFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) }
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', files.keyFile]
    execFileSync('openssl', ['req', '-x509', ...key, '-out', files.certFile, '-subj', `/CN=${name}`, '-days', '1'], {
      stdio: 'ignore',
    })
    return files
  }

  function subject(port: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = tlsConnect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => {
        const { subject: found } = socket.getPeerCertificate()
        socket.destroy()
        resolve(String(found.CN))
      })
      socket.on('error', reject)
    })
  }

  test('serves, reloads renewed files, keeps the present ones when the new cannot be used, refuses TLS 1.1', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'chancery-tls-'))
    open.push(() => rmSync(folder, { recursive: true }))
    const first = certificate(folder, 'first')
    const second = certificate(folder, 'second')
    const served = { certFile: join(folder, 'served.pem'), keyFile: join(folder, 'served.key') }
    const install = (from: typeof first): void => {
      copyFileSync(from.certFile, served.certFile)
      copyFileSync(from.keyFile, served.keyFile)
    }
    install(first)
    const { lines, logger } = recorder()
    const delivered: number[] = []
    const endpoint: Endpoint = { ...echo, answer: () => ({ ...plain(200, 'x'), delivered: () => delivered.push(1) }) }
    const listener = await serving([endpoint], { tls: served, logger })
    expect(listener.url).toMatch(/^https:/)
    expect(await subject(listener.port)).toBe('first')
    const status = await new Promise((resolve, reject) => {
      const options = { port: listener.port, path: '/echo', method: 'POST', rejectUnauthorized: false }
      httpsRequest(options, (answer) => resolve(answer.resume().statusCode))
        .on('error', reject)
        .end('x')
    })
    expect([status, delivered]).toEqual([200, [1]])
    const old = { port: listener.port, host: '127.0.0.1', rejectUnauthorized: false } as const
    const refusal = await new Promise<string>((resolve) => {
      const socket = tlsConnect({
        ...old,
        minVersion: 'TLSv1.1',
        maxVersion: 'TLSv1.1',
        ciphers: 'DEFAULT:@SECLEVEL=0',
      })
      socket.on('error', (error) => resolve(error.message)).on('secureConnect', () => resolve('accepted'))
    })
    expect(refusal).toMatch(/protocol version|alert/i)
    writeFileSync(served.certFile, 'half a certificate')
    await eventually(() => lines.some((line) => line.message.startsWith('TLS certificate not reloaded')))
    expect(await subject(listener.port)).toBe('first')
    install(second)
    await eventually(() => lines.some((line) => line.message === 'TLS certificate reloaded'))
    expect(await subject(listener.port)).toBe('second')
  })

  test('a key that does not fit its certificate is a named failure at start', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'chancery-tls-'))
    open.push(() => rmSync(folder, { recursive: true }))
    const { certFile } = certificate(folder, 'one')
    const { keyFile } = certificate(folder, 'other')
    await expect(serving([echo], { tls: { certFile, keyFile } })).rejects.toMatchObject({ code: 'tls_files' })
  })
})

test('a taken port is a named failure that says which', async () => {
  const listener = await serving([echo])
  const again = listen({ host: '127.0.0.1', port: listener.port, sections: [] })
  await expect(again).rejects.toThrow(ListenError)
  await expect(again).rejects.toMatchObject({
    code: 'address_in_use',
    message: `another program already listens on 127.0.0.1:${listener.port}`,
  })
})
