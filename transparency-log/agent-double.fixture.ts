/**
 * A stand-in for the HSM *process* in unit tests: software keys, but the guard's rules kept as the real agent keeps them
 * (`sequencer.contract.test.ts` runs the same log on the real one). Its state can lie in a file, so that it survives the
 * kill of the process that it lives in.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, hash, type KeyObject, sign } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { type GuardedHead, HsmError, type SigningAgent, type TreeHeadRequest } from '#hsm'
import {
  emptyRoot,
  formatCheckpoint,
  formatNote,
  keyHintSpki,
  signatureName,
  TlogError,
  verifyConsistency,
} from '#tlog'
import { sctSignatureInput, treeHeadSignatureInput } from '#x509'

interface State {
  readonly privatePem: string
  readonly guards: Record<string, { size: number; rootHex: string; frozenAtMs?: number }>
}

export interface AgentDouble extends SigningAgent {
  /** What the next calls meet; set by tests. */
  fault: HsmError | undefined
  /** Set to fail only entry signatures. */
  entryFault: HsmError | undefined
  /** Every tree head that was asked for. */
  readonly heads: TreeHeadRequest[]
  /** Entry signatures in flight at once, at most. */
  mostInFlight: number
  /** Puts the guard somewhere else, as another history would have. */
  moveGuard(origin: string, guard: GuardedHead): void
}

function readState(stateFile: string | undefined): State {
  if (stateFile !== undefined && existsSync(stateFile)) return JSON.parse(readFileSync(stateFile, 'utf8'))
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), guards: {} }
}

/** Makes an agent with one P-256 key under whatever name it is asked for; `style` is the form of its tree heads. */
export function makeAgentDouble(options: { stateFile?: string; style?: 'note' | 'ct' } = {}): AgentDouble {
  const { stateFile, style = 'note' } = options
  const state = readState(stateFile)
  const privateKey = createPrivateKey(state.privatePem)
  const spkiDer = new Uint8Array(createPublicKey(privateKey).export({ type: 'spki', format: 'der' }))
  const save = (): void => {
    if (stateFile === undefined) return
    writeFileSync(`${stateFile}.new`, JSON.stringify(state))
    renameSync(`${stateFile}.new`, stateFile)
  }
  save()
  const guardOf = (origin: string): GuardedHead => {
    const held = state.guards[origin]
    return held === undefined
      ? { size: 0, rootHash: emptyRoot() }
      : {
          size: held.size,
          rootHash: new Uint8Array(Buffer.from(held.rootHex, 'hex')),
          ...(held.frozenAtMs === undefined ? {} : { frozenAtMs: held.frozenAtMs }),
        }
  }
  const setGuard = (origin: string, guard: GuardedHead): void => {
    const { size, rootHash, frozenAtMs } = guard
    const frozen = frozenAtMs === undefined ? {} : { frozenAtMs }
    state.guards[origin] = { size, rootHex: Buffer.from(rootHash).toString('hex'), ...frozen }
    save()
  }
  let inFlight = 0
  const signEntry = async (bytes: Uint8Array): Promise<Uint8Array> => {
    agent.mostInFlight = Math.max(agent.mostInFlight, ++inFlight)
    await new Promise((resolve) => setImmediate(resolve))
    inFlight--
    if (agent.fault !== undefined) throw agent.fault
    if (agent.entryFault !== undefined) throw agent.entryFault
    return signDer(privateKey, bytes)
  }
  const notHere = () => Promise.reject(new HsmError('refused', 'not_here', 'the double has no such purpose'))
  const agent: AgentDouble = {
    fault: undefined,
    entryFault: undefined,
    heads: [],
    mostInFlight: 0,
    moveGuard: setGuard,
    key: async (name) => ({
      name,
      kind: 'P-256',
      spkiDer,
      keyId: new Uint8Array(hash('sha256', spkiDer, 'buffer')),
      purposes: ['treeHead', 'set', 'sct'],
    }),
    guardedHead: async ({ origin }) => {
      if (agent.fault !== undefined) throw agent.fault
      return guardOf(origin)
    },
    treeHead: async (request) => {
      agent.heads.push(request)
      if (agent.fault !== undefined) throw agent.fault
      const { origin, size, rootHash } = request
      const before = guardOf(origin)
      if (before.frozenAtMs !== undefined && (request.freeze !== true || size !== before.size)) {
        throw new HsmError('refused', 'frozen', 'the log is frozen')
      }
      checkGrowth(before, request)
      const frozen = request.freeze === true ? { frozenAtMs: before.frozenAtMs ?? request.timestampMs } : {}
      setGuard(origin, { size, rootHash, ...frozen })
      if (style === 'ct') {
        return {
          note: '',
          signature: signDer(privateKey, treeHeadSignatureInput(size, request.timestampMs, rootHash)),
          ...frozen,
        }
      }
      const text = formatCheckpoint({ origin, size, rootHash })
      const signature = signDer(privateKey, Buffer.from(text))
      const line = { name: signatureName(origin), keyHint: keyHintSpki(spkiDer), signature }
      return { note: formatNote(text, [line]), signature, ...frozen }
    },
    reportHead: notHere,
    set: ({ body, integratedTimeSeconds, logIndex }) =>
      signEntry(Buffer.concat([body, Buffer.from(`${integratedTimeSeconds} ${logIndex}`)])),
    sct: ({ entry, timestampMs }) => signEntry(sctSignatureInput(entry, timestampMs, new Uint8Array(0))),
    certificate: notHere,
    timestamp: notHere,
    tuf: notHere,
    tufVersions: notHere,
    account: notHere,
    useDigests: notHere,
    accountHead: notHere,
    status: notHere,
    close: async () => {},
  }
  return agent
}

function checkGrowth(guard: GuardedHead, { size, rootHash, consistencyProof }: TreeHeadRequest): void {
  try {
    verifyConsistency({
      first: guard.size,
      firstRoot: guard.rootHash,
      second: size,
      secondRoot: rootHash,
      proof: consistencyProof,
    })
  } catch (cause) {
    if (!(cause instanceof TlogError)) throw cause
    throw new HsmError('latched', 'fork_refused', `not a continuation of size ${guard.size}`, { cause })
  }
}

function signDer(privateKey: KeyObject, bytes: Uint8Array): Uint8Array {
  return new Uint8Array(sign('sha256', bytes, privateKey))
}
