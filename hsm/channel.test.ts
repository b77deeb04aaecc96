/** The agent's end of a connection against peers that do not behave. */
import { duplexPair, type Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { type Handler, LoadBound, serveChannel } from './channel.ts'
import { AgentStream } from './client.ts'
import { requestValue } from './protocol.ts'
import { HsmError } from './signing.ts'
import { encodeFrame, MAX_FRAME_BYTES } from './wire.ts'

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined }
const MANY = { requests: 1000, bytes: 1e9 }

function connected(handler: Handler, bound = new LoadBound(MANY)): Duplex {
  const [ours, theirs] = duplexPair()
  serveChannel(ours, handler, bound, silent)
  // As a socket would be, whose other end is gone.
  ours.once('close', () => theirs.destroy())
  return theirs
}

/** A handler whose requests wait until they are let go. */
function waiting(): { handler: Handler; release: () => void; underWay: () => number } {
  let held: (() => void)[] = []
  const handler: Handler = async () => {
    await new Promise<void>((resolve) => held.push(resolve))
    return 'done'
  }
  const release = () => {
    for (const resolve of held.splice(0)) resolve()
  }
  return { handler, release, underWay: () => held.length }
}

async function outcome(promise: Promise<unknown>): Promise<unknown> {
  return await promise.catch((error: unknown) => (error instanceof HsmError ? `${error.code} ${error.reason}` : error))
}

const frame = (id: number, bytes: number) =>
  encodeFrame(requestValue({ id, method: 'set', timeoutMs: 1000, argument: new Uint8Array(bytes) }))

describe('a connection is ended', () => {
  test.each([
    ['a frame longer than any', Buffer.from([0xff, 0xff, 0xff, 0xff])],
    ['a frame one byte too long', lengthOf(MAX_FRAME_BYTES + 1)],
    ['an empty frame', lengthOf(0)],
    ['no request', encodeFrame('hello')],
    ['a request without an argument', encodeFrame([1, 'status', 1000])],
    ['a request with a name for an id', encodeFrame(['1', 'status', 1000, {}])],
    ['nested lists', Buffer.concat([lengthOf(400), Buffer.alloc(400, 0x81)])],
    ['a list of four thousand million', Buffer.concat([lengthOf(5), Buffer.from([0x9a, 0xff, 0xff, 0xff, 0xff])])],
    ['text of another protocol', Buffer.from('GET / HTTP/1.1\r\nhost: agent\r\n\r\n')],
  ])('that sends %s', async (_, bytes) => {
    const handler = vi.fn<Handler>(async () => null)
    const peer = connected(handler)
    peer.on('error', () => undefined)
    const closed = new Promise((resolve) => peer.once('close', resolve))
    peer.write(bytes)
    await closed
    expect(handler).not.toHaveBeenCalled()
  })

  test('that begins a frame and does not end it, and not one that sends slowly but whole frames', async () => {
    vi.useFakeTimers()
    try {
      const [ours, theirs] = duplexPair()
      serveChannel(ours, async () => 'done', new LoadBound(MANY), silent)
      theirs.resume()
      const whole = frame(1, 100)
      for (let sent = 0; sent < 6; sent++) {
        // The end of one frame and the beginning of the next.
        theirs.write(Buffer.concat([whole.subarray(sent === 0 ? 0 : 50), whole.subarray(0, 50)]))
        await vi.advanceTimersByTimeAsync(5000)
        expect(ours.destroyed).toBe(false)
      }
      for (const byte of whole.subarray(50, 60)) {
        theirs.write(Buffer.from([byte]))
        await vi.advanceTimersByTimeAsync(1000)
      }
      expect(ours.destroyed).toBe(true)
    } finally {
      vi.useRealTimers()
    }
  })

  test('that reads no answers', async () => {
    const [ours, theirs] = duplexPair()
    serveChannel(ours, async () => 'a'.repeat(100_000), new LoadBound(MANY), silent)
    for (let id = 0; id < 200 && !ours.destroyed; id++) {
      theirs.write(frame(id, 1))
      await delay(1)
    }
    expect(ours.destroyed).toBe(true)
  })
})

describe('what is under way is bounded', () => {
  test('by count, and answered busy beyond it', async () => {
    const { handler, release, underWay } = waiting()
    const client = new AgentStream(connected(handler, new LoadBound({ requests: 3, bytes: 1e6 })))
    const asked = Array.from({ length: 5 }, () => outcome(client.request('status', {}, 5000)))
    expect(await Promise.all(asked.slice(3))).toEqual(['busy too_many_requests', 'busy too_many_requests'])
    expect(underWay()).toBe(3)
    release()
    expect(await Promise.all(asked.slice(0, 3))).toEqual(['done', 'done', 'done'])
    const next = outcome(client.request('status', {}, 5000))
    await expect.poll(underWay).toBe(1)
    release()
    expect(await next).toBe('done')
  })

  test('by bytes', async () => {
    const { handler, release, underWay } = waiting()
    const client = new AgentStream(connected(handler, new LoadBound({ requests: 100, bytes: 250_000 })))
    const large = { body: new Uint8Array(100_000) }
    const asked = Array.from({ length: 4 }, () => outcome(client.request('set', large, 5000)))
    expect(await Promise.all(asked.slice(2))).toEqual(['busy too_many_requests', 'busy too_many_requests'])
    expect(underWay()).toBe(2)
    release()
    await Promise.all(asked)
  })

  test('over all connections of a socket, and what one leaves when it goes is free again', async () => {
    const { handler, release, underWay } = waiting()
    const whole = new LoadBound({ requests: 4, bytes: 1e6 })
    const connections = [0, 1, 2].map(() => connected(handler, new LoadBound({ requests: 2, bytes: 1e6 }, whole)))
    const clients = connections.map((stream) => new AgentStream(stream))
    const asked = clients.flatMap((client) => [1, 2].map(() => outcome(client.request('status', {}, 5000))))
    expect(await Promise.all(asked.slice(4))).toEqual(['busy too_many_requests', 'busy too_many_requests'])
    connections[0]?.destroy()
    release()
    await Promise.all(asked)
    const again = clients.slice(1).flatMap((client) => [1, 2].map(() => outcome(client.request('status', {}, 5000))))
    await expect.poll(underWay).toBe(4)
    release()
    expect(await Promise.all(again)).toEqual(['done', 'done', 'done', 'done'])
  })
})

function lengthOf(bytes: number): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt32BE(bytes)
  return head
}
