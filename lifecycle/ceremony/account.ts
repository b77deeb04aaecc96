/** A plan in words, for those who are to approve it: everything that will happen, in order, machine by machine. Pure. */
import { hash } from 'node:crypto'
import { isKey } from './plan-lint.ts'
import type { CeremonyPlan, Person, ReadPlan } from './plan.ts'
import { type KeyStep, type Step, stepsOf } from './steps.ts'

/** The account of a plan, lines ended by newlines. */
export function accountOf({ plan, sha256, warnings }: ReadPlan): string {
  const steps = stepsOf(plan)
  const lines = [
    `Ceremony ${plan.ceremony}`,
    `  plan       sha256 ${sha256} (sha256sum says the same)`,
    `  expires    ${plan.expires}`,
    `  approved   by ${plan.quorum} of ${plan.operators.length}:`,
    ...plan.operators.map((person) => `             ${fingerprintWords(person)}`),
    ...(plan.witnesses.length === 0 ? [] : ['  witnesses  these, or any operator:']),
    ...plan.witnesses.map((person) => `             ${fingerprintWords(person)}`),
    '',
    'Tokens:',
    ...Object.entries(plan.tokens).map(
      ([name, { machine, uri, agent }]) => `  ${name}: ${uri} on ${machine}, agent ${agent}`,
    ),
    ...plan.existing.map(
      ({ key, token, certificateSha256 }) => `  ${token} has the root ${key} already: certificate ${certificateSha256}`,
    ),
    '',
    `What will be done, in ${steps.length} steps:`,
  ]
  for (const [at, step] of steps.entries()) {
    const where = 'machine' in step ? step.machine : 'anywhere'
    lines.push(`  ${String(at + 1).padStart(2)} ${where.padEnd(8)} ${wordsOf(step, plan)}`)
  }
  const keys = plan.make.filter(isKey)
  const staying = keys.filter(({ backup }) => !backup).length
  lines.push(
    '',
    `No key that is made can leave its token${staying === keys.length ? '.' : ', but for those that say so.'}`,
  )
  if (warnings.length > 0) lines.push('', 'Think about:', ...warnings.map((warning) => `  - ${warning}`))
  return `${lines.join('\n')}\n`
}

/** Name, kind of key, and a fingerprint that can be read out on the telephone. */
export function fingerprintWords({ name, ssh, minisign, pkcs11 }: Person): string {
  if (ssh !== undefined) {
    const [type = '', blob = ''] = ssh.split(' ')
    return `${name}: ${type} SHA256:${hash('sha256', Buffer.from(blob, 'base64'), 'base64').replace(/=+$/, '')}`
  }
  if (minisign !== undefined) {
    const keyId = Buffer.from(Buffer.from(minisign, 'base64').subarray(2, 10).toReversed())
    return `${name}: minisign ${keyId.toString('hex').toUpperCase()}`
  }
  return `${name}: PKCS#11 SPKI sha256 ${hash('sha256', Buffer.from(pkcs11 ?? '', 'base64'))}`
}

/** One step, without its machine. */
export function wordsOf(step: Step, plan: CeremonyPlan): string {
  switch (step.what) {
    case 'key':
      return keyWords(step)
    case 'request':
      return step.token === undefined
        ? `reads requests/${step.key}.csr.pem, for the key ${step.spkiSha256}`
        : `${step.key} asks for its certificate`
    case 'certificate': {
      const { organization, commonName } = step.name
      const who = `O=${organization}, CN=${commonName}, ${step.years} years`
      if (step.profile === 'root') return `${step.key} signs its own certificate: root CA, ${who}`
      const what = step.profile === 'issuing' ? 'issuing CA' : 'timestamp authority'
      return `${step.issuer} signs the certificate of ${step.key}: ${what}, ${who}`
    }
    case 'accept':
      return `${step.key} gets its certificate, and its purpose`
    default: {
      const { root, targets, online } = step.piece
      const role = (name: string, { threshold, keys }: typeof root) =>
        `${name} ${threshold} of ${keys.length} (${keys.join(', ')})`
      const holders = plan.make.flatMap((piece) =>
        piece.what === 'tuf-key' && piece.holder !== '' ? [`${piece.key}: ${piece.holder}`] : [],
      )
      const held = holders.length === 0 ? '' : `; held by ${holders.join(', ')}`
      return `writes the TUF roles: ${role('root', root)}, ${role('targets', targets)}, online ${online}${held}`
    }
  }
}

function keyWords({ key, kind, token, piece, witness, backup }: KeyStep): string {
  const what = {
    'root-ca': 'root CA',
    'issuing-ca': 'issuing CA',
    'timestamp-authority': 'timestamp authority',
    'ct-log': 'CT log',
    'rekor-v1': 'Rekor v1 log',
    'rekor-v2': 'Rekor v2 log',
    'tuf-key': 'TUF',
    account: 'account of key uses',
  }[piece.what]
  const more = [
    witness ? 'line for witnesses' : '',
    'origin' in piece ? piece.origin : '',
    piece.what === 'tuf-key' ? piece.roles.join(' and ') : '',
    'standby' in piece && piece.standby ? 'STANDS BY' : '',
    backup ? 'CAN BE WRAPPED FOR A BACKUP' : '',
  ].filter((words) => words !== '')
  return `makes the key ${key}, ${kind}, on token ${token}: ${[what, ...more].join(', ')}`
}
