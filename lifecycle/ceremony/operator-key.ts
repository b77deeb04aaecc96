/** An operator's own key on a token, for approvals and witnesses' signatures and nothing else. */
import { type AgentReach, withAdminAgent } from '../agents.ts'
import { editAgentFile, putKey } from '../rotation/agent-file.ts'
import type { KeyKind } from '#hsm'

/** Makes the key, gives it its one purpose in the agent's file, and returns its SubjectPublicKeyInfo, DER. */
export async function makeOperatorKey(
  reach: AgentReach,
  { name, token, kind }: { readonly name: string; readonly token: string; readonly kind: KeyKind },
): Promise<Uint8Array> {
  return await withAdminAgent(reach, async (admin) => {
    const { uri, spkiDer } = await admin.generateKey({ token, label: name, kind })
    const spki = Buffer.from(spkiDer).toString('base64')
    const entry = { uri, token, spki, kind, purposes: ['ceremonyStatement'] }
    editAgentFile(reach, (document) => putKey(document, name, entry))
    await admin.reload()
    return spkiDer
  })
}
