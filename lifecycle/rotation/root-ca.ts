/**
 * The root of the CA: a new root on the root token, and a new issuing CA below it. The CT log takes certificates below the
 * new root before there are any. The timestamp authority keeps its chain until it is rotated itself; the former root stays
 * in the trust root for all that is below it.
 */
import { encodePem } from '#x509'
import { agentStep, itemOf, numbered, planAuthority, switchStep } from './authority.ts'
import { certifyStep, chainIn, chainOfFile, issuerHere } from './certificates.ts'
import { known } from './facts.ts'
import { issuingCaOf, lastCertificateEnds } from './issuing-ca.ts'
import { keyStep, nextFreeName, plannedLike, retireStep, signerOf } from './keys.ts'
import { proveStep } from './prove.ts'
import { endStep, publishStep, waitStep } from './publication.ts'
import type { RotationPlan, Step } from './rotation.ts'

/** The CT log answers for certificates below both roots. */
const rootsStep: Step = {
  name: 'ct-roots',
  run: async ({ installation, facts }) => {
    const root = known(chainIn(known(facts.chain, 'chain')).at(-1), 'root')
    await installation.ask('ct-roots', { add: encodePem('CERTIFICATE', root) })
    return undefined
  },
}

export const rootCa: RotationPlan = {
  plan: async (installation, wishes, now) => {
    const authority = issuingCaOf(installation)
    const facts = await planAuthority(installation, authority, { wishes, now })
    const { roots: _roots, issuerKey: _issuer, ...certificate } = known(facts.certificate, 'certificate')
    const issuer = issuerHere(installation, [known(chainOfFile(authority.chain).at(-1), 'root')])
    // Made in a ceremony, with the certificate that is asked for.
    if (issuer === undefined) return { ...facts, certificate }
    const { issuerKey } = issuer
    const name = await nextFreeName(installation, issuerKey)
    const root = await plannedLike(installation, issuerKey, { name, side: 'root' })
    return {
      ...facts,
      former: { ...facts.former, keys: [...facts.former.keys, { name: issuerKey, side: 'root' }] },
      keys: { ...facts.keys, root },
      certificate: { ...certificate, rootName: numbered(`${installation.domain} root`, name) },
    }
  },
  steps: [
    keyStep,
    certifyStep,
    agentStep,
    rootsStep,
    publishStep(itemOf('certificate-authority')),
    waitStep,
    switchStep('ca-switch'),
    proveStep,
    endStep(lastCertificateEnds),
    retireStep,
  ],
  isSwitched: ({ installation, facts }) => installation.ca?.key === signerOf(facts).name,
}
