/**
 * A claim as Go prints it, which is what Fulcio puts into certificates: numbers as plain decimals (through a double),
 * booleans as words, lists, objects and null in the form of fmt's `%v`.
 */
export function claimText(value: unknown): string {
  return typeof value === 'number' ? plainDecimal(value) : printed(value)
}

/** strconv.FormatFloat(v, 'f', -1, 64): the shortest digits that read back as the same double, never an exponent. */
function plainDecimal(value: number): string {
  const match = /^(-?)(\d)(?:\.(\d+))?e([+-]\d+)$/.exec(String(value))
  if (match === null) return String(value)
  const [, sign = '', lead = '', fraction = '', exponentText = '0'] = match
  const digits = lead + fraction
  const exponent = Number(exponentText)
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`
  // JavaScript writes an exponent from 1e21 only, and a double has at most 17 digits: zeros are all that follows.
  return sign + digits.padEnd(exponent + 1, '0')
}

/** fmt's `%v`. */
function printed(value: unknown): string {
  if (value === null || value === undefined) return '<nil>'
  if (typeof value === 'number') return general(value)
  if (Array.isArray(value)) return `[${value.map(printed).join(' ')}]`
  if (typeof value === 'object') {
    // Go sorts the keys of a map when it prints one, by bytes.
    const entries = Object.entries(value).toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    return `map[${entries.map(([key, one]) => `${key}:${printed(one)}`).join(' ')}]`
  }
  return typeof value === 'string' ? value : JSON.stringify(value)
}

/** `%v` of a double inside a list or object: `%g`, shortest, with an exponent below 1e-4 and from 1e6. */
function general(value: number): string {
  if (value === 0) return '0'
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e')
  const exponent = Number(exponentText)
  if (exponent >= -4 && exponent < 6) return plainDecimal(value)
  const digits = String(Math.abs(exponent)).padStart(2, '0')
  return `${mantissa}e${exponent < 0 ? '-' : '+'}${digits}`
}
