/** Verification of the signatures that entries carry: over a given digest, or over a message that was hashed here. */
import { constants, createHash, publicDecrypt, verify } from 'node:crypto'
import { ed25519_FROST, ed25519ph } from '@noble/curves/ed25519.js'
import { verifyEcdsaDigest } from '#native'
import { CURVE_BYTES, ecdsaDerToP1363, type EcdsaPublicKey, type PublicKey, type RsaPublicKey, toKeyObject, X509Error } from '#x509'
import { EntryError } from './errors.ts'
import type { CheckBudget } from './limits.ts'
