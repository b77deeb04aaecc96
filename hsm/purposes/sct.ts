/** Signed certificate timestamps of the CT log's key (RFC 6962 §3.2). */
import { OID, parseCertificate, parseTbsCertificate, sctSignatureInput, type SctEntry } from '#x509'
import { signatureOver } from './certificate.ts'
import { advanceClock, checkLogTime, refuse, type Check, type Fields } from './purpose.ts'

const NO_EXTENSIONS = new Uint8Array(0)

export const checkSct: Check = (request, context) => {
  const timestampMs = request.count('timestampMs')
  const entry = readEntry(request.fields('entry'))
  request.end()
  const clock = `${context.key.name}/sct`
  checkLogTime(context, clock, timestampMs)
  advanceClock(context, clock, timestampMs)
  return signatureOver(sctSignatureInput(entry, timestampMs, NO_EXTENSIONS))
}

function readEntry(fields: Fields): SctEntry {
  const type = fields.text('type')
  if (type === 'x509') {
    const certificateDer = fields.bytes('certificateDer')
    fields.end()
    if (parseCertificate(certificateDer).extension(OID.ctPoison) !== undefined) {
      refuse('poisoned', 'a precertificate is logged as its TBSCertificate')
    }
    return { type, certificateDer }
  }
  if (type !== 'precert') return refuse('malformed', 'entry is neither x509 nor precert')
  const issuerKeyHash = fields.hash('issuerKeyHash')
  const tbsDer = fields.bytes('tbsDer')
  fields.end()
  const tbs = parseTbsCertificate(tbsDer)
  // RFC 6962 §3.2: what is signed is the TBSCertificate as the final one will have it, without its SCT list.
  if (tbs.extension(OID.ctPoison) !== undefined) refuse('poisoned', 'TBSCertificate still has its poison')
  if (tbs.extension(OID.sctList) !== undefined) refuse('has_sct', 'TBSCertificate still has an SCT list')
  return { type, issuerKeyHash, tbsDer }
}
