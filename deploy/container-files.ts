/** Dockerfile and .dockerignore as data, as far as ours go. */
import { readFileSync } from 'node:fs'

export interface Instruction {
  readonly name: string
  /** All after the name; continued lines joined, comments left out. */
  readonly words: string
}

export interface Stage {
  readonly name: string
  /** The image or the stage that it starts from, arguments filled in. */
  readonly from: string
  readonly instructions: readonly Instruction[]
}

/** The stages of a Dockerfile; `ARG` is known before the first of them only. */
export function readDockerfile(file: string): readonly Stage[] {
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => !line.trimStart().startsWith('#'))
  const joined = lines.join('\n').replaceAll(/\\\n\s*/g, '')
  const values = new Map<string, string>()
  const stages: { name: string; from: string; instructions: Instruction[] }[] = []
  for (const line of joined.split('\n').filter((text) => text.trim() !== '')) {
    const [, name = '', words = ''] = /^([A-Z]+)\s+(.*)$/.exec(line.trim()) ?? []
    if (name === '') throw new Error(`not understood in ${file}: ${line}`)
    const stage = stages.at(-1)
    if (name === 'FROM') {
      const [, from = '', as = ''] = /^(\S+) AS (\S+)$/.exec(words) ?? []
      stages.push({
        name: as,
        from: from.replaceAll(/\$\{(\w+)\}/g, (_, key: string) => values.get(key) ?? ''),
        instructions: [],
      })
    } else if (stage === undefined) {
      const [key = '', value = ''] = words.split('=')
      values.set(key, value)
    } else stage.instructions.push({ name, words })
  }
  return stages
}

/** Whether a path of the folder goes into the build context: the last pattern that matches it or a folder above decides. */
export function readDockerignore(file: string): (path: string) => boolean {
  const patterns = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => ({ keep: line.startsWith('!'), pattern: asRegExp(line.replace(/^!/, '')) }))
  return (path) => patterns.findLast(({ pattern }) => pattern.test(path))?.keep ?? true
}

function asRegExp(pattern: string): RegExp {
  const source = pattern
    .replaceAll(/[.+^${}()|[\]\\]/g, String.raw`\$&`)
    .replaceAll(/\*\*\/|\*/g, (stars) => (stars === '*' ? '[^/]*' : '(?:.*/)?'))
  return new RegExp(`^${source}(?:/|$)`)
}
