/** What other machines are given: the published repository, and where it is dialled. */
import { OperatorError } from '#alarms'
import { packKit } from '#trust-root/export'
import type { AdminVerbs } from './admin.ts'
import type { Parts } from './main.ts'

/** Answer of the verb `trust-kit`. */
export interface ServedKit {
  /** Of `packKit`. */
  readonly kit: string
  /** What TUF clients dial. */
  readonly mirror: string
}

/** The verb by name. */
export function kitVerb({ loaded }: Pick<Parts, 'loaded'>): AdminVerbs {
  return {
    'trust-kit': async (): Promise<ServedKit> => {
      const { trustRoot } = loaded.config
      if (trustRoot === undefined) throw new OperatorError('no_trust_root', 'this server has no trustRoot')
      return { kit: await packKit(loaded.resolve(trustRoot.folder)), mirror: trustRoot.url }
    },
  }
}
