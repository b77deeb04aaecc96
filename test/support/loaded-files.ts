/**
 * Given to `node --import file:…/loaded-files.ts?LIST`: writes the URL of every module that the process loads, one a line,
 * to the file LIST. Worker threads inherit the flag; what they load is in nobody's list.
 */
import { appendFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { isMainThread } from 'node:worker_threads'

const list = decodeURIComponent(new URL(import.meta.url).search.slice(1))
if (list === '') throw new Error('say where to: loaded-files.ts?LIST')

const hooks: Parameters<typeof registerHooks>[0] = {
  load: (url, context, next) => {
    appendFileSync(list, `${url}\n`)
    return next(url, context)
  },
}
if (isMainThread) registerHooks(hooks)
