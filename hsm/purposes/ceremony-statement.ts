/**
 * Approvals and witnesses' statements of a ceremony, for operators whose own keys are on an HSM. Admin channel only. The
 * agent writes the text from what is named, and its own clock says when: a key of this purpose signs nothing else.
 */
import { CEREMONY_NAME, formatStatement } from '../ceremony-statement.ts'
import { refuse, type Check, type Fields } from './purpose.ts'

export const checkCeremonyStatement: Check = (request, { nowMs }) => {
  const act = request.text('act')
  const ceremony = nameIn(request, 'ceremony')
  const name = nameIn(request, 'name')
  const planSha256 = hex(request.hash('planSha256'))
  const common = { ceremony, name, planSha256, atMs: Math.floor(nowMs / 1000) * 1000 }
  let statement: string
  if (act === 'approve') statement = formatStatement({ ...common, act })
  else if (act === 'witness') {
    const lines = request.count('lines')
    const head = hex(request.hash('head'))
    if (lines < 1) refuse('malformed', 'a transcript has a line at least')
    statement = formatStatement({ ...common, act, lines, head })
  } else return refuse('malformed', `${JSON.stringify(act)} is no act of a ceremony`)
  request.end()
  return {
    message: new TextEncoder().encode(statement),
    release: (signature) => ({ statement, signature }),
  }
}

function nameIn(request: Fields, field: string): string {
  const name = request.text(field)
  return CEREMONY_NAME.test(name) ? name : refuse('bad_name', `${field} is not 1 to 63 of a-z 0-9 . _ -`)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
