/**
 * Loads a PKCS#11 module into this process: the agent, or a short-lived child that probes it. A module reads its settings
 * from the environment, from its initialisation parameters, or from a file that one of them names; nothing is inherited.
 */
import pkcs11js from 'pkcs11js'
import { MODULE_ENVIRONMENT, type ModuleSettings, type ModuleVariable } from './module-settings.ts'
import { calling, CKF, isAlreadyInitialized, type Cryptoki } from './pkcs11.ts'

/** Loads and initialises it; throws `Pkcs11Failure`. Once a process: a second module would share nothing with the first but its crashes. */
export function loadModule(settings: ModuleSettings): Cryptoki {
  // Read by the module when it is initialised; an inherited value could point it at other tokens.
  for (const variable of Object.keys(MODULE_ENVIRONMENT)) {
    const value = settings.environment[variable as ModuleVariable] // its own keys
    if (value === undefined) Reflect.deleteProperty(process.env, variable)
    else process.env[variable] = value
  }
  const module = new pkcs11js.PKCS11()
  calling('dlopen', () => module.load(settings.path))
  initialize(module, settings)
  return module
}

/** C_Initialize for several threads; one that was initialised already is left as it is. */
export function initialize(module: Cryptoki, { parameters }: ModuleSettings): void {
  // pkcs11js cuts the last character off.
  const told = parameters === undefined ? {} : { libraryParameters: `${parameters} ` }
  try {
    calling('C_Initialize', () => module.C_Initialize({ flags: CKF.OS_LOCKING_OK, ...told }))
  } catch (error) {
    if (!isAlreadyInitialized(error)) throw error
  }
}
