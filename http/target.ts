/** A request target that was taken apart: `path` is folded but still percent-encoded, `decodedPath` is decoded once. */
export interface Target {
  readonly path: string
  readonly decodedPath: string
  /** With its `?`, or empty. */
  readonly search: string
}

/**
 * Takes a request target (origin form, or the absolute form that proxies send) apart, folds `//` and a trailing slash
 * away, and decodes it once. Undefined when it cannot be decoded, holds control characters, or walks the tree with `.`
 * and `..`: no honest client sends those, and nothing behind this needs to think about them.
 */
export function parseTarget(target: string): Target | undefined {
  const originForm = target.startsWith('/') ? target : afterAuthority(target)
  if (originForm === undefined) return undefined
  const mark = originForm.indexOf('?')
  const rawPath = mark < 0 ? originForm : originForm.slice(0, mark)
  const search = mark < 0 ? '' : originForm.slice(mark)
  let path = rawPath.includes('//') ? rawPath.replaceAll(/\/{2,}/g, '/') : rawPath
  if (path.length > 1 && path.endsWith('/')) path = path.slice(0, -1)
  const decodedPath = decode(path)
  if (decodedPath === undefined || hasControls(decodedPath) || hasDotSegment(decodedPath)) return undefined
  return { path, decodedPath, search }
}

function afterAuthority(target: string): string | undefined {
  const match = /^https?:\/\/[^/?]*(?<rest>.*)$/i.exec(target)
  if (!match) return undefined
  const rest = match.groups?.['rest'] ?? ''
  return rest.startsWith('/') ? rest : `/${rest}`
}

function decode(path: string): string | undefined {
  if (!path.includes('%')) return path
  try {
    return decodeURIComponent(path)
  } catch {
    return undefined
  }
}

function hasControls(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit < 0x20 || unit === 0x7f) return true
  }
  return false
}

function hasDotSegment(path: string): boolean {
  return path.includes('/.') && path.split('/').some((segment) => segment === '.' || segment === '..')
}
