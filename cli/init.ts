/** `chancery init`: makes tokens, keys, certificates, configuration and trust root under one data folder. */

import { resolve } from 'node:path'
import type { Command } from 'commander'

export function register(program: Command): void {
  program
    .command('init')
    .summary('make a new installation: tokens, keys, certificates, trust root')
    .option('--data <dir>', 'data folder to make', 'data')
    .option('--domain <domain>', 'names the logs in what they sign: rekor-v1.<domain>, …', 'chancery.internal')
    .option('--host <address>', 'address that every service binds and clients dial', '127.0.0.1')
    .option('--ports <choice>', 'usual, or auto for free ones', 'usual')
    .addHelpText(
      'after',
      '\nMakes SoftHSM tokens and a development configuration. An interrupted init is started over by the next one.\n\nExample:\n  chancery init --data ./data --domain sig.example.test\n',
    )
    .action(async (options: { data: string; domain: string; host: string; ports: string }) => {
      const { createInstallation, newTreeId } = await import('../lifecycle/installation.ts')
      const { defaultPorts, freePorts, takenPorts } = await import('../lifecycle/ports.ts')
      if (options.ports !== 'usual' && options.ports !== 'auto') throw new Error('--ports takes usual or auto')
      if (!/^(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/.test(options.domain)) {
        throw new Error(`--domain ${options.domain} is not a domain name in lower case`)
      }
      const ports = options.ports === 'auto' ? await freePorts(options.host) : defaultPorts
      const taken = await takenPorts(options.host, ports)
      if (taken.length > 0) {
        throw new Error(
          `taken by another program: ${taken.map((name) => `port ${ports[name]} (${name})`).join(', ')}; stop it, or choose free ports with --ports auto`,
        )
      }
      const dataDir = resolve(options.data)
      const started = performance.now()
      await createInstallation(
        dataDir,
        { profile: 'development', domain: options.domain, host: options.host, ports, treeId: newTreeId() },
        (step) => process.stderr.write(`  ${step}\n`),
      )
      process.stderr.write(
        `made ${dataDir} in ${((performance.now() - started) / 1000).toFixed(1)} s; serve it with: chancery serve --data ${options.data}\n`,
      )
    })
}
