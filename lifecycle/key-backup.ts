/** The backup of keys as a file: what can be wrapped, what cannot and why, and the way back. No secret is in it. */
import { z } from 'zod'
import { OperatorError } from '#alarms'
import { type AdminAgent, HsmError, type KeyKind, type RestoredKey, type WrappedKey } from '#hsm'
import { judgeObjects, spkiSha256 } from './token-contents.ts'

/** A key that stays in its token. */
export interface UnwrappedKey {
  readonly token: string
  readonly label: string
  readonly idHex: string
  /** Reason of the `HsmError` and its words. */
  readonly reason: string
  readonly message: string
}

export interface KeyBackup {
  /** `token` is the name that its agent's configuration has for it. */
  readonly keys: readonly (WrappedKey & { readonly token: string; readonly createdAt: string })[]
  readonly notWrapped: readonly UnwrappedKey[]
}

/**
 * Wraps every private key on an agent's tokens, or those whose label or id `only` names. A key that cannot be wrapped is
 * told, not thrown: by default none can (`key gen --backup`). Rejects what the agent rejects for a token that is away.
 */
export async function backupKeys(
  admin: AdminAgent,
  options: { readonly now: Date; readonly only?: readonly string[] },
): Promise<KeyBackup> {
  const keys: (WrappedKey & { token: string; createdAt: string })[] = []
  const notWrapped: UnwrappedKey[] = []
  for (const { name: token } of await admin.tokens()) {
    for (const { object, verdict } of judgeObjects(token, await admin.listObjects(token), [])) {
      const { label, idHex } = object
      if (object.class !== 'private key' || verdict === 'transport key' || idHex === '') continue
      if (options.only !== undefined && !options.only.includes(label) && !options.only.includes(idHex)) continue
      try {
        const wrapped = await admin.wrapKey({ token, idHex })
        keys.push({ ...wrapped, token, createdAt: options.now.toISOString() })
      } catch (error) {
        if (!(error instanceof HsmError) || error.code === 'latched') throw error
        notWrapped.push({ token, label, idHex, reason: error.reason, message: error.message })
      }
    }
  }
  return { keys, notWrapped }
}

const FORMAT = 'chancery-key-backup/1'

const hexText = z.string().regex(/^(?:[0-9a-f]{2}){1,255}$/)

const backupFile = z.strictObject({
  format: z.literal(FORMAT),
  keys: z.array(
    z.strictObject({
      label: z.string(),
      idHex: hexText,
      kind: z.string(),
      spki: z.base64(),
      spkiSha256: hexText,
      mechanism: z.literal('AES-KWP'),
      kekIdHex: hexText,
      wrapped: z.base64(),
      token: z.string(),
      createdAt: z.iso.datetime(),
    }),
  ),
})

/**
 * The file's text: one JSON object. The wrapped bytes carry their own integrity check (RFC 5649 §3), and a restored key
 * must sign as `spki`; label and id are only names, and `agent.yaml` pins which public key a name stands for.
 */
export function formatKeyBackup({ keys }: Pick<KeyBackup, 'keys'>): string {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  const document: z.input<typeof backupFile> = {
    format: FORMAT,
    keys: keys.map(({ label, idHex, kind, spkiDer, mechanism, kekIdHex, wrapped, token, createdAt }) => ({
      label,
      idHex,
      kind,
      spki: text(spkiDer),
      spkiSha256: spkiSha256(spkiDer),
      mechanism,
      kekIdHex,
      wrapped: text(wrapped),
      token,
      createdAt,
    })),
  }
  return `${JSON.stringify(document, undefined, 2)}\n`
}

/** Throws `OperatorError` `key_backup_damaged`. */
export function parseKeyBackup(text: string): KeyBackup['keys'] {
  const parsed = backupFile.safeParse(jsonIn(text))
  if (!parsed.success) {
    throw new OperatorError('key_backup_damaged', `this is no backup of keys: ${z.prettifyError(parsed.error)}`)
  }
  return parsed.data.keys.map(({ spki, spkiSha256: digest, wrapped, kind, ...rest }) => {
    const spkiDer = Uint8Array.from(Buffer.from(spki, 'base64'))
    if (spkiSha256(spkiDer) !== digest) {
      throw new OperatorError('key_backup_damaged', `the public key of ${rest.label} in the backup was changed`)
    }
    // The agent checks the kind against the public key.
    return { ...rest, kind: kind as KeyKind, spkiDer, wrapped: Uint8Array.from(Buffer.from(wrapped, 'base64')) }
  })
}

/** Puts keys of a backup on a token; each has signed when it is in the result. Stops at the first that is refused. */
export async function restoreKeys(
  admin: AdminAgent,
  token: string,
  keys: KeyBackup['keys'],
  onKey: (key: RestoredKey, label: string) => void = () => undefined,
): Promise<RestoredKey[]> {
  const restored: RestoredKey[] = []
  for (const { label, idHex, kind, spkiDer, mechanism, kekIdHex, wrapped } of keys) {
    const key = await admin.unwrapKey({ token, key: { label, idHex, kind, spkiDer, mechanism, kekIdHex, wrapped } })
    restored.push(key)
    onKey(key, label)
  }
  return restored
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
