/** The shared stack as a test sees it, and the small things that every test makes: artifacts, statements, tokens. */
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { importJWK, SignJWT } from 'jose'
import { inject } from 'vitest'
import { predicateType } from './clients.ts'
import { succeeded } from './run.ts'
import { runChancery } from './stack.ts'

/** Call it in a test file, once. */
export function sharedStack() {
  const stack = inject('stack')
  return { ...stack, identity: 'dev@example.test' }
}

let counter = 0

/** A fresh folder for one test's files. */
export function freshFolder(name = 'test'): string {
  counter += 1
  const folder = join(inject('stack').scratch, `${name.replaceAll(/[^a-zA-Z0-9]+/g, '-')}-${process.pid}-${counter}`)
  mkdirSync(folder, { recursive: true })
  return folder
}

/** A file that was never seen before. */
export function makeArtifact(folder: string, name = 'artifact.txt'): string {
  const file = join(folder, name)
  writeFileSync(file, `an artifact of the end-to-end tests, ${randomBytes(16).toString('hex')}\n`)
  return file
}

const predicate = {
  buildDefinition: { buildType: 'https://chancery.example/build/v1', externalParameters: { target: 'all' } },
  runDetails: { builder: { id: 'https://chancery.example/builder' } },
}

/** A SLSA provenance predicate and the in-toto statement with it over an artifact of which `digestHex` is the SHA-256. */
export function makeStatement(
  folder: string,
  artifact: string,
  content: Uint8Array,
): { predicate: string; statement: string } {
  const files = { predicate: join(folder, 'predicate.json'), statement: join(folder, 'statement.json') }
  writeFileSync(files.predicate, JSON.stringify(predicate))
  const sha256 = createHash('sha256').update(content).digest('hex')
  const subject = [{ name: basename(artifact), digest: { sha256 } }]
  const statement = { _type: 'https://in-toto.io/Statement/v1', subject, predicateType, predicate }
  writeFileSync(files.statement, JSON.stringify(statement))
  return files
}

const tokens = new Map<string, string>()

/** A file with an ID token of the development issuer for this identity; made once for each test file. */
export async function identityToken(email: string): Promise<string> {
  const known = tokens.get(email)
  if (known !== undefined) return known
  const { stdout } = succeeded(await runChancery(['dev', 'token', '--data', inject('stack').dataDir, '--email', email]))
  const file = join(freshFolder('token'), 'token')
  writeFileSync(file, stdout.trim())
  tokens.set(email, file)
  return file
}

/** A token of the tests' own issuer with usual claims, those given laid over them; undefined removes one. */
export async function signedToken(claims: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const { issuer } = inject('stack')
  const now = Math.floor(Date.now() / 1000)
  const payload = {
    iss: issuer.url,
    aud: 'sigstore',
    sub: 'subject-1',
    iat: now,
    exp: now + 300,
    email: 'someone@example.test',
    email_verified: true,
    ...claims,
  }
  return new SignJWT(Object.fromEntries(Object.entries(payload).filter(([, value]) => value !== undefined)))
    .setProtectedHeader({ alg: 'RS256', kid: 'test' })
    .sign(await importJWK(issuer.privateJwk, 'RS256'))
}
