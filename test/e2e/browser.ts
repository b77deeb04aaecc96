/**
 * Stands for a person with a browser: follows the redirects of a sign-in, fills in the one form, and goes back to the
 * client that waits. `node browser.ts URL EMAIL`
 */
const [start = '', email = ''] = process.argv.slice(2)
const jar = new Map<string, string>()

async function visit(url: string, form?: Record<string, string>): Promise<Response> {
  const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
  const response = await fetch(url, {
    redirect: 'manual',
    headers: { cookie },
    ...(form === undefined ? {} : { method: 'POST', body: new URLSearchParams(form) }),
  })
  for (const header of response.headers.getSetCookie()) {
    const [pair = ''] = header.split(';')
    const at = pair.indexOf('=')
    jar.set(pair.slice(0, at), pair.slice(at + 1))
  }
  return response
}

let url = start
let response = await visit(url)
for (let steps = 0; steps < 12; steps++) {
  const location = response.headers.get('location')
  if (location !== null) {
    url = new URL(location, url).href
    response = await visit(url)
    continue
  }
  // The form has no action: it posts to its own page.
  if (!(await response.text()).includes('<form method="post"')) break
  response = await visit(url, { email })
}
