/**
 * The head of the agent's own account of key uses, as a signed note. The agent says what is in it: a request names the key
 * and nothing else, so this key can speak of no other account, and of this one only as it is.
 */
import { formatCheckpoint, formatNote, keyHintSpki, signatureName } from '#tlog'
import { refuse, type Check } from './purpose.ts'

export const checkAccountHead: Check = (request, { key, state }) => {
  request.end()
  const { origin } = key
  if (origin === undefined) return refuse('wrong_origin', `key ${key.name} has no origin`)
  const { sequence: size, hash: rootHash } = state.accountEnd()
  const body = formatCheckpoint({ origin, size, rootHash, extensions: [] })
  const line = { name: signatureName(origin), keyHint: keyHintSpki(key.spkiDer) }
  return {
    message: new TextEncoder().encode(body),
    release: (signature) => ({ origin, size, rootHash, note: formatNote(body, [{ ...line, signature }]) }),
  }
}
