/** A log on SQLite with a face over it, called as the listener calls it, for the tests of this folder. */
import { createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import canonicalize from 'canonicalize'
import type { EndpointAnswer, Section } from '#http'
import type { SigningAgent } from '#hsm'
import type { Log } from '../log.ts'
import { openLog, type OpenLogOptions } from '../open.ts'
import { type AgentDouble, makeAgentDouble } from '../agent-double.fixture.ts'
import { rekorV1SignEntry } from './v1/sign-entry.ts'

export const TREE_ID = '1193050959916656506'
export const NOW = 1_790_000_000_789

/** What a test sees of an answer. */
export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly text: string
  readonly bytes: Uint8Array
  /** The body as JSON; undefined if it is none. */
  readonly json: unknown
  /** Tells the service that the answer reached the connection. */
  readonly deliver: () => void
}

export interface Call {
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** Answers `GET /path?query` by the section's own endpoints; literal segments win over parameters, as in the listener. */
export async function call(section: Section, request: string, { body, headers = {} }: Call = {}): Promise<Reply> {
  const [method = '', target = ''] = request.split(' ')
  const url = new URL(target, 'http://localhost')
  const path = decodeURIComponent(url.pathname)
  const fitting = section.endpoints
    .filter((endpoint) => endpoint.method === method)
    .flatMap((endpoint) => {
      const params = match(endpoint.path, path)
      return params === undefined ? [] : [{ endpoint, params }]
    })
    .toSorted((a, b) => Object.keys(a.params).length - Object.keys(b.params).length)
  const [found] = fitting
  const bytes = bodyBytes(body)
  const answer =
    found === undefined
      ? section.faults.notFound(path)
      : await found.endpoint.answer({
          method,
          path,
          params: found.params,
          query: url.searchParams,
          headers: { ...(method === 'POST' ? { 'content-type': 'application/json' } : {}), ...headers },
          body: bytes,
          requestId: 'test',
          signal: new AbortController().signal,
        })
  return replyOf(answer)
}

function replyOf(answer: EndpointAnswer): Reply {
  const bytes = typeof answer.body === 'string' ? Buffer.from(answer.body) : Buffer.from(answer.body ?? [])
  const text = bytes.toString()
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch {
    json = undefined
  }
  const { status, headers = {}, delivered = () => undefined } = answer
  return { status, headers, text, bytes, json, deliver: delivered }
}

function bodyBytes(body: unknown): Uint8Array {
  if (body === undefined) return new Uint8Array()
  if (body instanceof Uint8Array) return body
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
}

function match(pattern: string, path: string): Record<string, string> | undefined {
  const params: Record<string, string> = {}
  const parts = path.split('/')
  for (const [i, expected] of pattern.split('/').entries()) {
    const part = parts[i]
    if (part === undefined) return undefined
    if (expected.startsWith('*')) {
      params[expected.slice(1)] = parts.slice(i).join('/')
      return params
    }
    if (expected.startsWith(':')) params[expected.slice(1)] = part
    else if (expected !== part) return undefined
  }
  return pattern.split('/').length === parts.length ? params : undefined
}

const setKeys = generateKeyPairSync('ec', { namedCurve: 'P-256' })

/** The double with a true signed entry timestamp, under a key of its own. */
function withEntryTimestamps(double: AgentDouble): SigningAgent {
  return {
    ...double,
    set: async ({ key, body, integratedTimeSeconds, logIndex }) => {
      const { keyId } = await double.key(key)
      const logID = Buffer.from(keyId).toString('hex')
      const payload = {
        body: Buffer.from(body).toString('base64'),
        integratedTime: integratedTimeSeconds,
        logID,
        logIndex,
      }
      return Uint8Array.from(sign('sha256', Buffer.from(canonicalize(payload) ?? ''), setKeys.privateKey))
    },
  }
}

/** True if the SET of a v1 entry holds, by the rules that its clients follow. */
export function entryTimestampHolds(entry: {
  readonly body: string
  readonly integratedTime: number
  readonly logID: string
  readonly logIndex: number
  readonly verification: { readonly signedEntryTimestamp: string }
}): boolean {
  const { body, integratedTime, logID, logIndex, verification } = entry
  const payload = canonicalize({ body, integratedTime, logID, logIndex }) ?? ''
  const signature = Buffer.from(verification.signedEntryTimestamp, 'base64')
  return verify(
    'sha256',
    Buffer.from(payload),
    createPublicKey(setKeys.publicKey.export({ type: 'spki', format: 'pem' })),
    signature,
  )
}

export interface TestLog {
  readonly log: Log
  readonly agent: AgentDouble
  /** Closes the log and opens it again over the same file. */
  readonly reopen: (options?: Partial<OpenLogOptions>) => Promise<Log>
  readonly close: () => Promise<void>
}

/** A new log of the kind, in a folder of its own. */
export async function openTestLog(kind: 'rekor-v1' | 'rekor-v2'): Promise<TestLog> {
  const folder = mkdtempSync(join(tmpdir(), 'rekor-'))
  const agent = makeAgentDouble()
  const open = (options: Partial<OpenLogOptions> = {}): Promise<Log> => {
    const signing = withEntryTimestamps(agent)
    return openLog({
      name: kind,
      kind,
      origin: kind === 'rekor-v1' ? `rekor-v1.chancery.internal - ${TREE_ID}` : 'rekor-v2.chancery.internal',
      databasePath: join(folder, 'log.db'),
      agent: signing,
      key: kind,
      now: () => NOW,
      ...(kind === 'rekor-v1' ? { signEntry: rekorV1SignEntry(signing, kind) } : {}),
      ...options,
    })
  }
  let log = await open()
  return {
    get log() {
      return log
    },
    agent,
    reopen: async (options) => {
      await log.close()
      log = await open(options)
      return log
    },
    close: async () => {
      await log.close()
      rmSync(folder, { recursive: true })
    },
  }
}
