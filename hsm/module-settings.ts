/** How a PKCS#11 module is to be loaded: plain data, part of the agent's configuration. */

export interface ModuleSettings {
  readonly path: string
  /** `libraryParameters` of C_Initialize: NSS is told its database by them. */
  readonly parameters: string | undefined
  readonly environment: Readonly<Partial<Record<ModuleVariable, string>>>
}

/**
 * What a configuration may set, by what reads it. Not PKCS11SPY and P11_KIT_DEBUG, which write the PIN to a log, nor
 * anything that the loader reads (LD_…), which would load other code.
 */
export const MODULE_ENVIRONMENT = {
  SOFTHSM2_CONF: 'SoftHSM: its configuration file',
  P11_KIT_SERVER_ADDRESS: 'p11-kit-client: unix:path=… of the server',
  TPM2_PKCS11_TCTI: 'tpm2-pkcs11: how the TPM is reached',
  TPM2_PKCS11_STORE: 'tpm2-pkcs11: folder of its database',
  DBUS_SESSION_BUS_ADDRESS: 'tpm2-abrmd on a session bus',
  YUBIHSM_PKCS11_CONF: 'YubiHSM 2: its configuration file',
  ChrystokiConfigurationPath: 'Luna: folder of Chrystoki.conf',
  CKNFAST_LOADSHARING: 'nShield: load sharing over modules',
  CKNFAST_ASSUME_SINGLE_PROCESS: 'nShield: 0 shows the keys that other processes make',
  CKNFAST_CARDSET_HASH: 'nShield: the one card set to show',
  CLOUDHSM_PKCS11_CONFIG_FILE: 'AWS CloudHSM: its configuration file',
  KMS_PKCS11_CONFIG: 'Google Cloud KMS: its configuration file',
  GOOGLE_APPLICATION_CREDENTIALS: 'Google Cloud KMS: credentials file',
  OPENSC_CONF: 'OpenSC: its configuration file',
} as const
export type ModuleVariable = keyof typeof MODULE_ENVIRONMENT
