/** The certificate of a new key: signed by the root token here, or asked for by file. */
import { readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { OperatorError } from '#alarms'
import type { AdminAgent } from '#hsm'
import { issueRootCertificate } from '#hsm/ceremony'
import { decodePem, encodePem, equalBytes, parseCertificate } from '#x509'
import { onAgentFiles, readAgentFile } from '../agents.ts'
import { answerRequest, encodeChain, readAnswer, requestCertificate } from '../ceremony/certificate-request.ts'
import { replaceDurably } from '../durable-file.ts'
import { editAgentFile, keysIn, putKey, reachOf, reload, withSide } from './agent-file.ts'
import { type Facts, known } from './facts.ts'
import { entryOf, signerOf, spkiOf } from './keys.ts'
import type { Installation, Pause, Rotation, Step } from './rotation.ts'

const YEAR_MS = 365.25 * 24 * 60 * 60 * 1000
/** Of an issuing CA and of a timestamp authority, as `chancery init` makes them. */
const VALIDITY_YEARS = 5

/** The chain of PEM text, DER. */
export function chainIn(pem: string): Uint8Array[] {
  return decodePem(pem, { labels: ['CERTIFICATE'] }).map(({ der }) => der)
}

/** The chain in a file of the configuration, DER, with at least two certificates. Throws `rotation_impossible`. */
export function chainOfFile(path: string): Uint8Array[] {
  const chain = chainIn(readFileSync(path, 'utf8'))
  if (chain.length < 2) throw new OperatorError('rotation_impossible', `${path} holds no chain up to a root`)
  return chain
}

/** Who may sign below one of these roots here: its name in the root token's agent and its certificate. */
export function issuerHere(
  { rootAgent }: Installation,
  roots: readonly Uint8Array[],
): { readonly issuerKey: string; readonly root: Uint8Array } | undefined {
  if (rootAgent === undefined) return undefined
  const keys = Object.entries(keysIn(rootAgent)).filter(([, { purposes }]) => purposes.includes('caCertificate'))
  for (const root of roots) {
    const spki = Buffer.from(parseCertificate(root).publicKey.spkiDer).toString('base64')
    const found = keys.find(([, entry]) => entry.spki === spki)
    if (found !== undefined) return { issuerKey: found[0], root }
  }
  return undefined
}

/** Has the new key certified. Where no root token is at hand, a request is written and `--certificate` brings the answer. */
export const certifyStep: Step = {
  name: 'certify',
  run: async (rotation) => {
    if (rotation.facts.chain !== undefined) return undefined
    const { installation, facts } = rotation
    const wanted = known(facts.certificate, 'certificate')
    if (facts.keys.root !== undefined) {
      await signRoot(rotation)
      await signHere(rotation, { issuerKey: facts.keys.root.name, root: onlyOf(known(rotation.facts.root, 'root')) })
      return undefined
    }
    if (wanted.issuerKey === undefined) return await askedFor(rotation)
    const issuer = issuerHere(installation, chainIn(known(wanted.roots, 'roots')))
    await signHere(rotation, known(issuer, 'issuer on the root token'))
    return undefined
  },
}

/** The new root signs itself: its agent has to know the key first. */
async function signRoot({ installation, facts, keep, now }: Rotation): Promise<void> {
  if (facts.root !== undefined) return
  const planned = known(facts.keys.root, 'root key')
  const { organization, rootName } = known(facts.certificate, 'certificate')
  editAgentFile(reachOf(installation, 'root'), (document) =>
    putKey(document, planned.name, { ...entryOf(planned), purposes: ['caCertificate'] }),
  )
  const der = await withSide(installation, 'root', async (admin) => {
    await reload(admin, [planned.name])
    const name = { organization, commonName: known(rootName, 'name of the root') }
    return await issueRootCertificate({ agent: admin, key: planned.name, name, now: now() })
  })
  keep({ root: encodePem('CERTIFICATE', der) })
}

async function signHere(
  { installation, facts, keep, now }: Rotation,
  { issuerKey, root }: { readonly issuerKey: string; readonly root: Uint8Array },
): Promise<void> {
  const { profile, organization, commonName } = known(facts.certificate, 'certificate')
  const signer = signerOf(facts)
  // A minute less: a certificate begins a little in the past.
  const yearsLeft = (parseCertificate(root).notAfter.getTime() - now().getTime() - 120_000) / YEAR_MS
  const chain = await withSide(installation, 'root', (agent) =>
    answerRequest(
      {
        agent,
        issuerKey,
        issuerChain: [root],
        subject: { spkiDer: spkiOf(signer), kind: signer.kind },
        profile,
        name: { organization, commonName },
        validityYears: Math.min(VALIDITY_YEARS, yearsLeft),
      },
      now(),
    ),
  )
  keep({ chain })
}

async function askedFor(rotation: Rotation): Promise<Pause | undefined> {
  const { installation, facts, resuming, keep, now } = rotation
  const { commonName } = known(facts.certificate, 'certificate')
  if (resuming.certificate !== undefined) {
    keep({ chain: encodeChain(checkedAnswer(facts, resuming.certificate, now())) })
    return undefined
  }
  const file = `lifecycle/${signerOf(facts).name}.csr.pem`
  if (facts.requestFile === undefined) {
    const text = await withSide(installation, 'services', (admin) => request(rotation, admin))
    replaceDurably(join(installation.dataDir, file), text)
    keep({ requestFile: file })
  }
  return { state: 'awaiting-certificate', requestFile: join(installation.dataDir, file), commonName }
}

/** The key proves itself in its request; it has that one purpose until its certificate is there. */
async function request({ installation, facts }: Rotation, admin: AdminAgent): Promise<string> {
  const signer = signerOf(facts)
  const { organization, commonName } = known(facts.certificate, 'certificate')
  editAgentFile(reachOf(installation, 'services'), (document) =>
    putKey(document, signer.name, { ...entryOf(signer), purposes: ['certificateRequest'] }),
  )
  await reload(admin, [signer.name])
  return await requestCertificate(admin, { key: signer.name, name: { organization, commonName } })
}

/** The chain of an answer, DER: of this key, below a root that is known here, valid now. Throws `ceremony_certificate_refused`. */
export function checkedAnswer(facts: Facts, text: string, now: Date): Uint8Array[] {
  const { profile, organization, commonName, roots } = known(facts.certificate, 'certificate')
  const known_ = roots === undefined ? [] : chainIn(roots)
  const given = readChain(text)
  const [only, above] = given
  // Whoever signed below a root that is known here need not send it along.
  const root = above ?? known_.find((each) => only !== undefined && isIssuedBy(only, each))
  const chain = only === undefined || root === undefined ? given : [only, root]
  const checked = readAnswer(encodeChain(chain), {
    profile,
    spkiDer: spkiOf(signerOf(facts)),
    name: { organization, commonName },
  })
  const top = checked.at(-1)
  if (roots !== undefined && !known_.some((each) => top !== undefined && equalBytes(each, top))) {
    throw refused('its root is not one of this installation; a new root is: chancery rotate root-ca')
  }
  for (const der of checked) {
    const { notBefore, notAfter } = parseCertificate(der)
    if (notBefore > now || notAfter < now) throw refused('it is not valid now')
  }
  return checked
}

function readChain(text: string): Uint8Array[] {
  try {
    return chainIn(text)
  } catch (error) {
    throw refused('it is no PEM', error)
  }
}

function isIssuedBy(der: Uint8Array, issuer: Uint8Array): boolean {
  try {
    return equalBytes(parseCertificate(der).issuerDer, parseCertificate(issuer).subjectDer)
  } catch {
    return false
  }
}

function refused(how: string, cause?: unknown): OperatorError {
  return new OperatorError('ceremony_certificate_refused', `the certificate is refused: ${how}`, { cause })
}

function onlyOf(pem: string): Uint8Array {
  return known(chainIn(pem)[0], 'certificate in the journal')
}

/** Writes the certificate of the new key; returns where the agent finds it, as agent.yaml has it: relative to its folder. */
export function writeCertificate({ installation, facts }: Rotation): string {
  const { name } = signerOf(facts)
  const path = join(installation.dataDir, certificateFile(name))
  replaceDurably(path, encodeChain(chainIn(known(facts.chain, 'chain')).slice(0, 1)))
  return certificateForAgent(installation, name, path)
}

/** Where the agent finds a certificate that the data folder has at `path`, as agent.yaml has it; it gets a copy where it needs one. */
export function certificateForAgent(installation: Installation, key: string, path: string): string {
  const agentFile = readAgentFile(installation.agent).path
  const beside = certificateBeside(installation, key)
  if (beside === undefined) return relative(dirname(agentFile), path)
  const pem = readFileSync(path, 'utf8')
  onAgentFiles(installation.agent, () => replaceDurably(beside, pem, { readersOf: agentFile }))
  return relative(dirname(agentFile), beside)
}

/** Of an issuing CA's key, below the data folder. */
export function certificateFile(key: string): string {
  return `ca/${key}.pem`
}

/** An agent on its own has no access to the data folder: its copy, absolute. */
export function certificateBeside({ agent, agentApart }: Installation, key: string): string | undefined {
  return agentApart ? join(dirname(readAgentFile(agent).path), `${key}.pem`) : undefined
}
