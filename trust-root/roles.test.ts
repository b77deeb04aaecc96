import { expect, test } from 'vitest'
import { custodianRoles, memoryAgent } from '../test/support/trust-installation.ts'
import { formatRoles, parseRoles, type Roles } from './roles.ts'

const names = ['ada', 'bert', 'cleo']
const roles = await custodianRoles(Object.fromEntries(names.map((name) => [name, memoryAgent(name)])), names, 2)

test('roles.json reads back what it wrote', () => {
  expect(parseRoles(formatRoles(roles))).toEqual(roles)
  expect(parseRoles(formatRoles({ ...roles, online: ['a', 'b'] }))).toEqual({ ...roles, online: ['a', 'b'] })
})

const faults: [string, (given: Roles) => unknown][] = [
  ['a threshold that can never be met', (given) => ({ ...given, root: { ...given.root, threshold: 4 } })],
  ['no threshold', (given) => ({ ...given, targets: { ...given.targets, threshold: 0 } })],
  ['a custodian that is not there', (given) => ({ ...given, root: { threshold: 1, custodians: ['zoe'] } })],
  ['one custodian twice', (given) => ({ ...given, root: { threshold: 2, custodians: ['ada', 'ada', 'bert'] } })],
  [
    'one key under two names',
    (given) => ({ ...given, custodians: given.custodians.map((one) => ({ ...one, key: given.custodians[0]?.key })) }),
  ],
  [
    'a custodian without a role',
    (given) => ({
      ...given,
      root: { threshold: 1, custodians: ['ada'] },
      targets: { threshold: 1, custodians: ['ada'] },
    }),
  ],
  ['an unknown field', (given) => ({ ...given, quorum: 1 })],
]
test.each(faults)('roles.json is refused with %s', (_, spoil) => {
  const text = JSON.stringify({ schemaVersion: 1, ...(spoil(roles) as object) })
  expect(() => parseRoles(text)).toThrow(expect.objectContaining({ code: 'invalid_roles' }))
})
