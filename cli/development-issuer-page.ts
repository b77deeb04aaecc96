/** The pages of the development issuer: plain HTML without scripts. */

/** Asks for the e-mail address to sign in as. */
export function emailPage(shown: { readonly email: string; readonly fault?: string }): string {
  const fault = shown.fault === undefined ? '' : `<p class="fault" role="alert">${escapeHtml(shown.fault)}</p>`
  return page(
    'Sign in',
    `<h1>Who do you want to be?</h1>
      <form method="post" autocomplete="on">
        <label for="email">E-mail address</label>
        <input id="email" name="email" type="email" required autofocus spellcheck="false" autocapitalize="none"
          placeholder="dev@example.test" value="${escapeHtml(shown.email)}">
        ${fault}
        <button type="submit">Continue</button>
      </form>
      <p class="note">There is no password. Whoever reaches this page can be anyone, so certificates from this issuer
        prove nothing about a person.</p>`,
  )
}

/** A page with a title and a sentence, for when there is nothing to ask. */
export function faultPage(title: string, text: string): string {
  return page(title, `<h1>${escapeHtml(title)}</h1><p>${escapeHtml(text)}</p>`)
}

function page(title: string, content: string): string {
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>${escapeHtml(title)} · Chancery development issuer</title>
    <style>
      :root { --ink: #1c2330; --soft: #5b6472; --paper: #f4f2ec; --sheet: #fff; --line: #d5d1c6; --seal: #96281b; }
      @media (prefers-color-scheme: dark) {
        :root { --ink: #eceae4; --soft: #a2a9b4; --paper: #14171c; --sheet: #1d2128; --line: #363c46; --seal: #e0695a; }
      }
      * { box-sizing: border-box; }
      body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1.5rem;
        background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
      main { width: 100%; max-width: 25rem; background: var(--sheet); border: 1px solid var(--line);
        border-radius: 10px; overflow: hidden; }
      .banner { margin: 0; padding: .55rem 1.5rem; background: var(--seal); color: var(--sheet); font-size: .85rem;
        font-weight: 600; letter-spacing: .02em; }
      .content { padding: 1.5rem; }
      h1 { margin: 0 0 1rem; font-size: 1.3rem; line-height: 1.3; }
      label { display: block; margin-bottom: .3rem; font-weight: 600; font-size: .9rem; }
      input, button { width: 100%; padding: .6rem .75rem; border-radius: 6px; font: inherit; }
      input { border: 1px solid var(--soft); background: transparent; color: inherit; }
      button { margin-top: 1rem; border: 0; background: var(--ink); color: var(--sheet); font-weight: 600; cursor: pointer; }
      input:focus-visible, button:focus-visible { outline: 3px solid var(--seal); outline-offset: 2px; }
      .fault { margin: .5rem 0 0; color: var(--seal); font-weight: 600; }
      .note { margin: 1.25rem 0 0; color: var(--soft); font-size: .85rem; }
    </style>
  </head>
  <body>
    <main>
      <p class="banner">Development only</p>
      <div class="content">
      ${content}
      </div>
    </main>
  </body>
</html>
`
}

function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  }
  return text.replaceAll(/[&<>"']/g, (character) => entities[character] ?? '')
}
