export type X509ErrorCode =
  | 'malformed_der'
  | 'malformed_pem'
  /** An algorithm or curve that is not spoken here. */
  | 'unsupported_key'
  /** A key of a known kind that must not be certified: size, exponent, structure of the modulus, point not on its curve. */
  | 'weak_key'
  | 'malformed_certificate'
  | 'malformed_csr'
  | 'malformed_sct'
  | 'bad_signature'
  /** Well-formed, but not what this authority issues or issues under. */
  | 'profile'

/** Every failure of this folder; `code` says which, `cause` holds the error of the layer below. */
export class X509Error extends Error {
  readonly code: X509ErrorCode
  constructor(code: X509ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'X509Error'
    this.code = code
  }
}

/** Runs `parse` and gives a `malformed_der` inside it the code of the structure that was being read. */
export function readingAs<T>(code: X509ErrorCode, structure: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    if (error instanceof X509Error && error.code === 'malformed_der') {
      throw new X509Error(code, `${structure}: ${error.message}`, { cause: error })
    }
    throw error
  }
}
