/** What is wrong with the tokens of an installation's agents: objects, attributes, latches. */
import type { Code } from '#alarms'
import type { AdminAgent, KeyRecord, LatchedName, TokenDetails, TokenObject } from '#hsm'
import { judgeAttributes, judgeObjects, type JudgedObject } from '#lifecycle'
import type { Finding } from './examination.ts'

/** What one agent tells of itself. */
export interface SurveyedAgent {
  /** Its name, for `--agent`. */
  readonly agent: string
  readonly tokens: readonly TokenDetails[]
  readonly latches: readonly LatchedName[]
  readonly records: readonly KeyRecord[]
  /** By the token's name; a token that is away has none. */
  readonly objects: ReadonlyMap<string, readonly TokenObject[]>
}

/** Asks an agent for everything; lists page by page, so that signing goes on. */
export async function surveyAgent(agent: string, admin: AdminAgent): Promise<SurveyedAgent> {
  const [tokens, latches, records] = await Promise.all([admin.tokens(), admin.latches(), admin.keyRecords()])
  const objects = new Map<string, readonly TokenObject[]>()
  for (const { name, loggedIn } of tokens) if (loggedIn) objects.set(name, await admin.listObjects(name))
  return { agent, tokens, latches, records, objects }
}

/** Every finding of all agents; an object is judged by the keys of all of them that open its token. Pure. */
export function tokenFindings(agents: readonly SurveyedAgent[]): Finding[] {
  const seen = new Set<string>()
  return agents.flatMap((surveyed) => [
    ...surveyed.latches.map(latchFinding),
    ...surveyed.records.flatMap((record) => recordFindings(record, surveyed)),
    ...surveyed.tokens.flatMap((token) => {
      const found = tokenStateFindings(token)
      const objects = surveyed.objects.get(token.name)
      // A token that two agents open is read once.
      if (objects === undefined || seen.has(identity(token))) return found
      seen.add(identity(token))
      return [
        ...found,
        ...objectFindings(token.name, judgeObjects(token.name, objects, recordsOf(token, agents)), surveyed.agent),
      ]
    }),
  ])
}

const identity = ({ manufacturer, model, serial, label }: TokenDetails): string =>
  [manufacturer, model, serial, label].join('\0')

/** The configured keys of every agent on this token, as if all called it by this name. */
function recordsOf(token: TokenDetails, agents: readonly SurveyedAgent[]) {
  return agents.flatMap(({ tokens, records }) => {
    const names = tokens.filter((other) => identity(other) === identity(token)).map(({ name }) => name)
    return records.filter((record) => names.includes(record.token)).map((record) => ({ ...record, token: token.name }))
  })
}

function latchFinding({ name, reason, atMs }: LatchedName): Finding {
  const [kind = '', ...rest] = name.split(':')
  const code: Code = kind === 'token' ? 'token_latched' : kind === 'origin' ? 'fork_refused' : 'key_latched'
  return { code, subject: rest.join(':'), message: `${reason} (since ${new Date(atMs).toISOString()})` }
}

function recordFindings({ name, token, fault }: KeyRecord, { tokens }: SurveyedAgent): Finding[] {
  const there = tokens.some((each) => each.name === token && each.loggedIn)
  if (fault === '' || !there) return []
  return [{ code: 'key_unusable', subject: name, message: `on ${token}: ${fault}` }]
}

function tokenStateFindings({ name, label, loggedIn, latched, fault, flags, pinRotation }: TokenDetails): Finding[] {
  return [
    // A latch is among the agent's latches already.
    ...(loggedIn || latched !== ''
      ? []
      : [finding('token_absent', name, fault === '' ? `token ${label} is not logged in` : fault)]),
    ...flags.map((flag) => finding('pin_count_low', name, `the token says: ${flag}`)),
    ...(pinRotation === ''
      ? []
      : [finding('pin_rotation_interrupted', name, `finish it: chancery token pin rotate ${name}`)]),
  ]
}

function objectFindings(token: string, judged: readonly JudgedObject[], agent: string): Finding[] {
  return judged.flatMap((each) => {
    const found = [...verdictFindings(token, each, agent), ...attributeFindings(token, each)]
    return found
  })
}

function verdictFindings(token: string, { object, verdict }: JudgedObject, agent: string): Finding[] {
  const what = `${object.class} ${object.label === '' ? 'without label' : object.label}, id ${object.idHex === '' ? 'none' : object.idHex}`
  const subject = `${token}: ${what}`
  switch (verdict) {
    case 'half pair':
    case 'nameless':
      return [
        finding(
          'object_half_pair',
          subject,
          `its other half is not there: a generation or restore was interrupted; look at it with: chancery key ls --orphans --agent ${agent}`,
        ),
      ]
    case 'duplicate':
      return [
        finding(
          'object_duplicate',
          subject,
          'another object of its class has the same id: nobody can say which is used',
        ),
      ]
    case 'unknown secret key':
      return [finding('object_unknown', subject, 'nobody here made this secret key: with it others could be wrapped')]
    case 'foreign':
      return [finding('object_unknown', subject, 'this program puts no such object on a token')]
    case 'configured':
    case 'spare':
    case 'key-encryption key':
    case 'transport key':
      return []
    default:
      return verdict satisfies never
  }
}

/** Attributes that a thief of a session could use; those that a wrapped and restored key cannot have are not told. */
const NEVER = new Set(['DECRYPT', 'UNWRAP', 'DERIVE', 'SIGN_RECOVER'])

function attributeFindings(token: string, { object, key }: JudgedObject): Finding[] {
  if (object.class !== 'private key') return []
  const subject = `${token}: ${key ?? `${object.label}, id ${object.idHex}`}`
  const { findings } = judgeAttributes(object)
  const violated = findings.filter(({ verdict }) => verdict === 'VIOLATED').map(({ name }) => name)
  const open = violated.filter((name) => name !== 'SIGN')
  const wrong = [
    ...violated.filter((name) => name === 'SIGN'),
    ...findings
      .filter(({ name, found, wanted }) => NEVER.has(name) && found === 'yes' && wanted === 'no')
      .map(({ name }) => name),
  ]
  return [
    ...(open.length === 0
      ? []
      : [
          finding(
            'key_extractable',
            subject,
            `whoever logs in can take the key away (${open.join(', ')}); replace the key`,
          ),
        ]),
    ...(wrong.length === 0
      ? []
      : [
          finding(
            'key_attributes',
            subject,
            `${wrong.join(', ')} is not as a signing key's must be; it was not made here`,
          ),
        ]),
  ]
}

function finding(code: Code, subject: string, message: string): Finding {
  return { code, subject, message }
}
