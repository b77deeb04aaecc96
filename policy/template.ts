import { PolicyError } from './error.ts'

/** A parsed value template of a CI provider. */
export type Template =
  /** Without `{{`: the name of a claim or default. */
  { readonly kind: 'claim'; readonly name: string } | { readonly kind: 'template'; readonly nodes: readonly Node[] }

type Node =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'value'; readonly value: Expression }
  | {
      readonly kind: 'if'
      readonly condition: Expression
      readonly whenTrue: readonly Node[]
      readonly whenFalse: readonly Node[]
    }

type Expression =
  | { readonly kind: 'field'; readonly name: string }
  | { readonly kind: 'index'; readonly name: string }
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'eq'; readonly left: Expression; readonly right: readonly Expression[] }

/**
 * Parses the part of Go's text/template that Fulcio's configuration uses: `.field`, `index . "key"`, `eq a b…`, string
 * literals, parentheses, if / else if / else / end, comments and trim markers. Anything else throws
 * `invalid_configuration` at start rather than fail at a certificate.
 */
export function parseTemplate(source: string): Template {
  if (!source.includes('{{')) return { kind: 'claim', name: source }
  const pieces = split(source)
  const nodes = parseNodes(pieces, [])
  return { kind: 'template', nodes }
}

/** Fills a template; throws `missing_claim` for a field or name that the values lack (`index` gives empty text instead, as in Go). */
export function applyTemplate(template: Template, values: ReadonlyMap<string, string>): string {
  if (template.kind === 'claim') return field(template.name, values)
  return render(template.nodes, values)
}

function render(nodes: readonly Node[], values: ReadonlyMap<string, string>): string {
  return nodes
    .map((node) => {
      if (node.kind === 'text') return node.text
      if (node.kind === 'value') return String(evaluate(node.value, values))
      // Go: the empty string and false are false.
      const holds = evaluate(node.condition, values)
      return render(holds === '' || holds === false ? node.whenFalse : node.whenTrue, values)
    })
    .join('')
}

function evaluate(expression: Expression, values: ReadonlyMap<string, string>): string | boolean {
  if (expression.kind === 'text') return expression.text
  if (expression.kind === 'field') return field(expression.name, values)
  if (expression.kind === 'index') return values.get(expression.name) ?? ''
  const left = evaluate(expression.left, values)
  // Every operand is evaluated, so that a missing one is an error wherever it stands.
  const right = expression.right.map((one) => evaluate(one, values))
  return right.includes(left)
}

function field(name: string, values: ReadonlyMap<string, string>): string {
  const value = values.get(name)
  if (value === undefined)
    throw new PolicyError('missing_claim', `${JSON.stringify(name)} is in neither the claims nor the defaults`)
  return value
}

type Piece =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'action'; readonly tokens: readonly Token[] }

/** Text and actions in turn; comments are dropped, trim markers applied. */
function split(source: string): Piece[] {
  const pieces: Piece[] = []
  let at = 0
  let trimStart = false
  for (;;) {
    const open = source.indexOf('{{', at)
    let text = source.slice(at, open < 0 ? undefined : open)
    if (trimStart) text = text.trimStart()
    if (open < 0) {
      pieces.push({ kind: 'text', text })
      return pieces
    }
    const inside = /^\{\{(-\s)?((?:"(?:[^"\\]|\\.)*"|`[^`]*`|[^"`{}])*?)(\s-)?\}\}/su.exec(source.slice(open))
    if (inside === null) throw invalid(source, 'an action is not closed')
    if (inside[1] !== undefined) text = text.trimEnd()
    pieces.push({ kind: 'text', text })
    const body = inside[2] ?? ''
    if (!/^\s*\/\*.*\*\/\s*$/su.test(body)) pieces.push({ kind: 'action', tokens: tokenize(body) })
    trimStart = inside[3] !== undefined
    at = open + inside[0].length
  }
}

type Token = { readonly kind: 'word' | 'field' | 'literal' | 'mark'; readonly text: string }

function tokenize(action: string): readonly Token[] {
  const tokens: Token[] = []
  let rest = action.trim()
  while (rest !== '') {
    const match =
      /^(?:(?<literal>"(?:[^"\\]|\\.)*"|`[^`]*`)|\.(?<field>[\p{L}_][\p{L}\p{Nd}_]*)(?![.\p{L}])|(?<mark>[().])(?![\p{L}\p{Nd}])|(?<mark2>\()|(?<word>[a-z]+))\s*/u.exec(
        rest,
      )
    if (match?.groups === undefined) throw invalid(action, 'not a part of the template language that is supported')
    const { literal, field, word } = match.groups
    if (literal !== undefined) tokens.push({ kind: 'literal', text: unquote(literal) })
    else if (field !== undefined) tokens.push({ kind: 'field', text: field })
    else if (word !== undefined) tokens.push({ kind: 'word', text: word })
    else tokens.push({ kind: 'mark', text: match.groups.mark ?? match.groups.mark2 ?? '' })
    rest = rest.slice(match[0].length)
  }
  if (tokens.length === 0) throw invalid(action, 'an action is empty')
  return tokens
}

function unquote(literal: string): string {
  if (literal.startsWith('`')) return literal.slice(1, -1)
  // Go's and JSON's escapes agree on what a claim name or value needs; others are refused.
  try {
    return String(JSON.parse(literal))
  } catch (cause) {
    throw new PolicyError('invalid_configuration', `template: the string ${literal} cannot be read`, { cause })
  }
}

/** Consumes pieces up to one of the closing words, which stays first in the list. */
function parseNodes(pieces: Piece[], closing: readonly string[]): Node[] {
  const nodes: Node[] = []
  for (let piece = pieces[0]; piece !== undefined; piece = pieces[0]) {
    if (piece.kind === 'text') {
      if (piece.text !== '') nodes.push(piece)
      pieces.shift()
      continue
    }
    const word = piece.tokens[0]?.kind === 'word' ? piece.tokens[0].text : ''
    if (word === 'else' || word === 'end') {
      if (!closing.includes(word)) throw invalid(word, 'it closes nothing')
      return nodes
    }
    pieces.shift()
    if (word === 'if') nodes.push(parseIf(piece.tokens.slice(1), pieces))
    else nodes.push({ kind: 'value', value: parseExpression(piece.tokens) })
  }
  if (closing.length > 0) throw invalid('if', 'it has no end')
  return nodes
}

function parseIf(condition: readonly Token[], pieces: Piece[]): Node {
  const test = parseExpression(condition)
  const whenTrue = parseNodes(pieces, ['else', 'end'])
  const close = pieces.shift()
  const tokens = close?.kind === 'action' ? close.tokens : []
  if (tokens[0]?.text === 'end' && tokens.length === 1) return { kind: 'if', condition: test, whenTrue, whenFalse: [] }
  if (tokens[0]?.text === 'else' && tokens[1]?.text === 'if' && tokens[1].kind === 'word') {
    return { kind: 'if', condition: test, whenTrue, whenFalse: [parseIf(tokens.slice(2), pieces)] }
  }
  if (tokens[0]?.text !== 'else' || tokens.length !== 1) throw invalid('else', 'not understood')
  const whenFalse = parseNodes(pieces, ['end'])
  const end = pieces.shift()
  if (end?.kind !== 'action' || end.tokens.length !== 1) throw invalid('end', 'not understood')
  return { kind: 'if', condition: test, whenTrue, whenFalse }
}

/** The whole of the tokens as one expression. */
function parseExpression(tokens: readonly Token[]): Expression {
  const rest = [...tokens]
  const expression = parseCall(rest)
  if (rest.length > 0) throw invalid(rest.map(({ text }) => text).join(' '), 'not understood')
  return expression
}

function parseCall(rest: Token[]): Expression {
  const first = rest[0]
  if (first?.kind !== 'word') return parseOperand(rest)
  rest.shift()
  if (first.text === 'index') {
    const dot = rest.shift()
    const key = rest.shift()
    if (dot?.kind !== 'mark' || dot.text !== '.' || key?.kind !== 'literal')
      throw invalid('index', 'only `index . "name"` is supported')
    return { kind: 'index', name: key.text }
  }
  if (first.text === 'eq') {
    const left = parseOperand(rest)
    const right: Expression[] = []
    while (rest.length > 0 && !isMark(rest[0], ')')) right.push(parseOperand(rest))
    if (right.length === 0) throw invalid('eq', 'it needs two operands')
    return { kind: 'eq', left, right }
  }
  throw invalid(first.text, 'this function is not supported')
}

function parseOperand(rest: Token[]): Expression {
  const token = rest.shift()
  if (token?.kind === 'field') return { kind: 'field', name: token.text }
  if (token?.kind === 'literal') return { kind: 'text', text: token.text }
  if (!isMark(token, '(')) throw invalid(token?.text ?? '', 'a field, a string or a bracket is expected')
  const inner = parseCall(rest)
  if (!isMark(rest.shift(), ')')) throw invalid('(', 'it is not closed')
  return inner
}

function isMark(token: Token | undefined, text: string): boolean {
  return token?.kind === 'mark' && token.text === text
}

function invalid(what: string, why: string): PolicyError {
  return new PolicyError('invalid_configuration', `template: ${JSON.stringify(what)}: ${why}`)
}
