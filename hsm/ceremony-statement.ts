/**
 * What operators and witnesses of a ceremony put their names to: one text of a few lines, the same whether an SSH key, a
 * minisign key or a key of an HSM signs it. It has one encoding: what `parseStatement` accepts, `formatStatement` wrote.
 */

/** The first line. No other text that a key of this project signs begins with it. */
const TITLE = 'chancery ceremony statement v1'

interface StatementHead {
  /** The ceremony's name in its plan. */
  readonly ceremony: string
  /** SHA-256 of the plan's bytes, hex. */
  readonly planSha256: string
  /** Who speaks, by the name in the plan. */
  readonly name: string
  /** Unix milliseconds, whole seconds. */
  readonly atMs: number
}

/** `approve`: what the plan says may be done. `witness`: the transcript up to this line is what was done. */
export type CeremonyStatement =
  | (StatementHead & { readonly act: 'approve' })
  | (StatementHead & {
      readonly act: 'witness'
      /** Lines of the transcript. */
      readonly lines: number
      /** Hash in its last line, hex. */
      readonly head: string
    })

/** Names of ceremonies, operators and witnesses. */
export const CEREMONY_NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/

const HEX = /^[0-9a-f]{64}$/

/** The text that is signed. Throws `TypeError` for fields that it has no form for. */
export function formatStatement(statement: CeremonyStatement): string {
  const { act, ceremony, planSha256, name, atMs } = statement
  const sound = CEREMONY_NAME.test(ceremony) && CEREMONY_NAME.test(name) && HEX.test(planSha256) && isTime(atMs)
  if (!sound) throw new TypeError('a statement of a ceremony has a name, a digest or a time that is none')
  const lines = [TITLE, `act: ${act}`, `ceremony: ${ceremony}`, `plan: sha256:${planSha256}`]
  if (statement.act === 'witness') {
    if (!HEX.test(statement.head) || !Number.isSafeInteger(statement.lines) || statement.lines < 1) {
      throw new TypeError('a statement about a transcript names its lines and its head')
    }
    lines.push(`transcript: ${statement.lines} lines, sha256:${statement.head}`)
  }
  const at = new Date(atMs).toISOString().replace('.000Z', 'Z')
  return `${[...lines, `name: ${name}`, `at: ${at}`].join('\n')}\n`
}

/** The statement that a text is; undefined if it is none, in every byte. */
export function parseStatement(text: string): CeremonyStatement | undefined {
  const found = FORM.exec(text)?.groups
  if (found === undefined) return undefined
  const { act, ceremony = '', planSha256 = '', lines, head = '', name = '', at = '' } = found
  const common = { ceremony, planSha256, name, atMs: Date.parse(at) }
  const statement: CeremonyStatement =
    act === 'witness' ? { ...common, act, lines: Number(lines), head } : { ...common, act: 'approve' }
  try {
    return formatStatement(statement) === text ? statement : undefined
  } catch (error) {
    if (error instanceof TypeError) return undefined
    throw error
  }
}

const FORM = new RegExp(
  `^${TITLE}\\nact: (?<act>approve|witness)\\nceremony: (?<ceremony>[^\\n]+)\\nplan: sha256:(?<planSha256>[^\\n]+)\\n` +
    '(?:transcript: (?<lines>[0-9]+) lines, sha256:(?<head>[^\\n]+)\\n)?name: (?<name>[^\\n]+)\\nat: (?<at>[^\\n]+)\\n$',
)

/** Years 0 to 9999 in whole seconds: what the text has four digits for. */
function isTime(atMs: number): boolean {
  return Number.isSafeInteger(atMs) && atMs >= 0 && atMs % 1000 === 0 && atMs < 253_402_300_800_000
}
