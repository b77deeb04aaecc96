import { describe, expect, test } from 'vitest'
import { claimText } from './claim-text.ts'
import { joinPath, parseUrl, urlText } from './go-url.ts'
import { PolicyError } from './index.ts'
import { applyTemplate, parseTemplate } from './template.ts'
import vectors from './testdata/go-vectors.json' with { type: 'json' }

/** Go, being what Fulcio runs, is the oracle of how claims become text, names and extensions. */
const VALUES = new Map([
  ['a', 'x'],
  ['b', 'x'],
  ['e', ''],
  ['_u1', 'u'],
  ['with.dot/', 'cat'],
])

/** What Go accepts and we refuse: no shipped configuration uses it, and a name so made would be a surprise. */
const REFUSED_TEMPLATES = ['{{printf .a}}', '{{.a|len}}', '{{$x := .a}}', '{{range .}}{{end}}', '{{.}}']
const REFUSED_URLS = ['https://h/p?q=a b&c=é', 'https://h<x>/']

describe('like Go', () => {
  test.each(vectors.claimText as [string, string][])('prints the claim %s', (json, text) => {
    expect(claimText(JSON.parse(json))).toBe(text)
  })

  test.each(vectors.url as [string, string | null][])('reads and writes the URL %j', (url, text) => {
    if (text === null || REFUSED_URLS.includes(url)) expect(() => parseUrl(url)).toThrow(PolicyError)
    else expect(urlText(parseUrl(url))).toBe(text)
  })

  test.each(vectors.joinPath as [string[], string][])('joins %j', (parts, text) => {
    // Go drops a part with a broken escape silently; a name must not lose its end.
    if (parts.includes('a%zz')) expect(() => joinPath('https://github.com/', ...parts)).toThrow(PolicyError)
    else expect(joinPath('https://github.com/', ...parts)).toBe(text)
  })

  test.each(vectors.template as [string, 'parse' | 'execute' | { text: string }][])('fills %j', (template, outcome) => {
    const fill = () => applyTemplate(parseTemplate(template), VALUES)
    if (typeof outcome === 'string' || REFUSED_TEMPLATES.includes(template)) expect(fill).toThrow(PolicyError)
    else expect(fill()).toBe(outcome.text)
    // What Go refuses when it parses must not wait for the first token here either.
    if (outcome === 'parse')
      expect(() => parseTemplate(template)).toThrow(expect.objectContaining({ code: 'invalid_configuration' }))
  })

  test('takes a template without braces as the name of a claim', () => {
    expect(applyTemplate(parseTemplate('with.dot/'), VALUES)).toBe('cat')
    expect(applyTemplate(parseTemplate('e'), VALUES)).toBe('')
    for (const name of ['', 'zz', ' a']) {
      expect(() => applyTemplate(parseTemplate(name), VALUES)).toThrow(
        expect.objectContaining({ code: 'missing_claim' }),
      )
    }
  })
})
