/** One line of progress on a terminal; nothing where nobody watches. */
export interface ShownSteps {
  readonly show: (step: { readonly what: string; readonly done: number; readonly of: number }) => void
  /** Clears the line. */
  readonly end: () => void
}

export function showSteps(stream: NodeJS.WriteStream = process.stderr): ShownSteps {
  if (!stream.isTTY) return { show: () => undefined, end: () => undefined }
  let shownMs = 0
  return {
    show: ({ what, done, of }) => {
      if (Date.now() - shownMs < 100 && done !== of) return
      shownMs = Date.now()
      stream.write(`\r\u001b[K${what}: ${done} of ${of}`)
    },
    end: () => void stream.write('\r\u001b[K'),
  }
}
