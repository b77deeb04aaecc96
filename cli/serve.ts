/** `chancery serve`: runs everything that the configuration names, until it is told to stop. */

import { join, resolve } from 'node:path'
import type { Command } from 'commander'

export function register(program: Command): void {
  program
    .command('serve')
    .summary('run the services of a configuration')
    .option('--data <dir>', 'data folder', 'data')
    .option('--config <file>', 'configuration (default: chancery.yaml in the data folder)')
    .option('--check', 'open and check everything, listen on nothing, and leave')
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
    .addHelpText(
      'after',
      '\nSIGTERM and SIGINT finish what was accepted and stop. A ready server has\nwritten run/endpoints.json.\n\nExit status: 0 stopped, or sound with --check, 2 the configuration has a fault,\n3 something is held by another process, 4 a PIN or a latch, 5 the HSM is away,\n8 a log or a key is not what it was, 9 disk or clock.\n\nExamples:\n  chancery serve --data ./data\n  chancery serve --config /etc/chancery/chancery.yaml --check\n',
    )
    .action(async (options: { data: string; config?: string; check?: boolean; logLevel: string }) => {
      const [{ loadConfig, serve }, { pino }] = await Promise.all([import('#server'), import('pino')])
      const logger = pino({
        level: options.logLevel,
        base: null,
        timestamp: pino.stdTimeFunctions.isoTime,
        messageKey: 'msg',
      })
      const loaded = loadConfig(resolve(options.config ?? join(options.data, 'chancery.yaml')))
      const serving = serve(loaded, {
        logger,
        checkOnly: options.check === true,
        startDevelopmentIssuer: async (at) => {
          const { startDevelopmentIssuer } = await import('./development-issuer.ts')
          return await startDevelopmentIssuer({ dataDir: at.dataDir, listen: at.listen, issuerUrl: at.url })
        },
      })
      if (loaded.config.developmentIssuer !== undefined && options.check !== true) {
        // It takes as long to load as the agent to start, in a process of its own; a failure is told where it is used.
        import('./development-issuer.ts').catch(() => undefined)
      }
      const server = await serving
      if (options.check === true) {
        await server.close()
        process.stdout.write(`${loaded.file} is sound: keys, certificates, logs and trust root fit together\n`)
        return
      }
      await new Promise<void>((stopped) => {
        const stop = (signal: NodeJS.Signals) => {
          logger.info({ signal }, 'stopping; what was accepted is finished first')
          server.close().then(
            () => stopped(),
            (error: unknown) => {
              logger.error({ err: error }, 'could not stop cleanly')
              process.exitCode = 1
              stopped()
            },
          )
        }
        process.once('SIGTERM', stop)
        process.once('SIGINT', stop)
      })
      logger.info('stopped')
    })
}
