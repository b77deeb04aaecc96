/**
 * Requests for a certificate, PKCS#10 (RFC 2986): proof that a key is held, for an authority on another machine. Admin
 * channel only. The agent writes the whole request from a name, so this key can prove possession of itself and say nothing
 * else; a key has this purpose until its certificate is there, and no other beside it.
 */
import { bitString, contextConstructed, encodeName, integer, nullValue, objectIdentifier, OID, sequence } from '#x509'
import { KIND_RULES } from '../key-kinds.ts'
import { refuse, type Check, type Fields } from './purpose.ts'

/** Names of authorities are letters, digits and few signs: what a request says cannot begin like anything else that is signed. */
const NAME = /^[\p{L}\p{N}][\p{L}\p{N} .,'()&/_-]{0,63}$/u

export const checkCertificateRequest: Check = (request, { key }) => {
  const organization = nameIn(request, 'organization')
  const commonName = nameIn(request, 'commonName')
  request.end()
  const infoDer = sequence(
    integer(0),
    encodeName([
      { type: 'O', value: organization },
      { type: 'CN', value: commonName },
    ]),
    key.spkiDer,
    contextConstructed(0),
  )
  const oid = KIND_RULES[key.kind].certificateAlgorithm
  // RFC 4055 §5 wants parameters NULL for RSA, RFC 5758 §3.2 none for ECDSA.
  const algorithm = sequence(objectIdentifier(oid), ...(oid === OID.sha256WithRsaEncryption ? [nullValue()] : []))
  return { message: infoDer, release: (signature) => sequence(infoDer, algorithm, bitString(signature)) }
}

function nameIn(request: Fields, field: string): string {
  const name = request.text(field)
  return NAME.test(name) ? name : refuse('bad_name', `${field} is not 1 to 64 letters, digits, blanks and .,'()&/_-`)
}
