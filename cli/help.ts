/** What `chancery --help` prints: by what a person wants, the urgent first; at most 80 columns. */
export const HELP = `chancery: a private Sigstore with every signing key in an HSM

Something is wrong:
  chancery status --data DIR          each service, log and key, and its fault
  chancery doctor --data DIR          what is wrong on tokens, in files, with
                                      disk and clock, server running or not
  chancery serve --data DIR --check   test configuration, keys and logs; start
                                      nothing
  curl http://HOST:2112/readyz        for probes: what is not ready, and why

  Clients can verify while everything here is down: a signature carries its
  proofs. Stopping is safe at any time; what was acknowledged is on disk. Never
  restore agent/ from a backup, and never delete it to "unlatch" a log.

Set up and run:
  init      make tokens, keys, certificates and configuration in a data folder
  serve     run the services of a configuration until SIGTERM
  clients   print the lines with which cosign and others use this stack
  dev       development only: an issuer that believes whoever asks, and tokens

Keep and bring back:
  backup    copy logs, trust root, account and configuration of a running server
  restore   bring an installation back, at exactly the heads its agent remembers

What clients trust:
  trust     show it, publish it, have custodians sign it; export it for clients;
            what another machine needs to join

Logs:
  log       list, show, check, freeze, adopt; start a successor

Tokens and keys:
  token     list tokens, make one, change its PIN, lift its latch
  key       list, make, destroy, back up and restore keys
  agent     let an agent read its configuration again; take over a copied state
  rotate    change a key, step by step, with nothing that clients notice
  distrust  in an emergency: give up what a key signed
  ceremony  make roots and keys from a plan that a quorum of people approved
  hsm       find out what an HSM and its PKCS#11 module can do

Sign and verify:
  login     get an ID token through the browser
  sign      sign a file with a certificate for your identity
  verify    verify a file, its bundle and who signed; status 0 only if all hold

For auditors, who trust no server:
  audit     prove an entry, watch a log for forks, recount a whole log

Each command explains itself: chancery COMMAND --help
Alike everywhere: --data DIR, --json, -o FILE; --dry-run where something is
destroyed or switched, and --confirm for scripts, where nobody can be asked.
Exit status: 0 done, 1 failed, 2 not understood, 3 locked, 4 PIN or latch, 5 HSM
away, 6 refused, 7 needs a person, 8 evidence of tampering, 9 disk or clock.
With --debug an error shows its stack.
`
