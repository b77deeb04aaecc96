import { spawn } from 'node:child_process'

/** Opens a URL in the desktop's browser if there is one; the URL was shown already, so failure is silent. */
export function openBrowser(url: string): void {
  const opener = process.platform === 'darwin' ? 'open' : 'xdg-open'
  const child = spawn(opener, [url], { stdio: 'ignore', detached: true })
  child.on('error', () => {})
  child.unref()
}
