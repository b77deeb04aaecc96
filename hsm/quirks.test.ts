import { expect, test } from 'vitest'
import { profileOf, PROFILES, QUIRKS } from './quirks.ts'

const identity = (manufacturer: string, model: string, library: [string, string] = ['Vendor', 'Cryptoki']) => ({
  manufacturer,
  model,
  libraryManufacturer: library[0],
  libraryDescription: library[1],
})
const P11_KIT: [string, string] = ['PKCS#11 Kit', 'PKCS#11 Kit Proxy Module']
const TPM: [string, string] = ['tpm2-software.github.io', 'TPM2.0 Cryptoki']

test.each([
  ['SoftHSM', identity('SoftHSM project', 'SoftHSM v2'), 'SoftHSM 2', true],
  ['SoftHSM under a renamed library', identity('SoftHSM project', 'SoftHSM v2', ['HSM Inc', 'HSM']), 'SoftHSM 2', true],
  ['SoftHSM behind p11-kit', identity('SoftHSM project', 'SoftHSM v2', P11_KIT), 'SoftHSM 2', true],
  ['NSS', identity('Mozilla Foundation', 'NSS 3'), 'NSS softokn', true],
  ['swtpm', identity('IBM', 'SW   TPM', TPM), 'software TPM 2.0 (tpm2-pkcs11)', true],
  ['a TPM chip', identity('Infineon', 'SLB9670', TPM), 'TPM 2.0 (tpm2-pkcs11)', false],
  ['opencryptoki', identity('IBM', 'Soft'), 'PKCS#11', true],
  ['YubiHSM', identity('Yubico (www.yubico.com)', 'YubiHSM'), 'YubiHSM 2', false],
  ['Luna', identity('SafeNet', 'Luna K7'), 'Luna', false],
  ['a stranger', identity('Acme', 'Vault 9000'), 'PKCS#11', false],
])('%s', (_, found, name, software) => {
  expect(profileOf(found)).toMatchObject({ name, software })
})

test('a library in between adds its own quirks to those of the token', () => {
  expect(profileOf(identity('Mozilla Foundation', 'NSS 3', P11_KIT)).quirks).toEqual(
    expect.arrayContaining(['origin_unproven', 'reads_fail', 'mechanisms_hidden']),
  )
})

test('of an unproven origin is only what is known for it', () => {
  const names = PROFILES.filter(({ quirks }) => quirks.includes('origin_unproven')).map(({ name }) => name)
  expect(names).toEqual(['NSS softokn'])
})

test('every quirk is told in words', () => {
  for (const { quirks } of PROFILES) for (const quirk of quirks) expect(QUIRKS[quirk]).toMatch(/^[a-z]/)
})
