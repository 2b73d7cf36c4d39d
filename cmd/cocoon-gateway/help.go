package main

// usage is what "help" prints.
const usage = `cocoon-gateway: routes requests of OpenAI clients to workers.

  cocoon-gateway [run]  [--config FILE]        serve until SIGINT or SIGTERM
  cocoon-gateway check-config [--config FILE]  read the configuration, say what is wrong with it

  cocoon-gateway accounts create NAME [limits]
  cocoon-gateway accounts list | show NAME
  cocoon-gateway accounts limit NAME [limits]  of each of its keys that has none of its own
  cocoon-gateway accounts suspend NAME --reason TEXT | resume NAME
  cocoon-gateway accounts grant NAME TON --id ID   give test money, once for each ID

  cocoon-gateway keys create NAME [--account A] [settings]   make an API key; it is shown this once
  cocoon-gateway keys list [--account A] | show ID
  cocoon-gateway keys update ID [settings]
  cocoon-gateway keys rotate ID [--grace 24h]  show a new text for the key; the old one works that long
  cocoon-gateway keys revoke ID
    settings: --name N, --models 'llama*,qwen3' or all, --scopes inference,account,withdraw,
              --budget TON or none, --reset none|daily|weekly|monthly, --expires 90d, a day or never,
              --price-cap-in TON, --price-cap-out TON (for a million tokens),
              --provider JSON or none: what its requests wish of a worker unless they say otherwise, in OpenRouter's
              words, such as '{"sort":"price","attestation":"gateway"}', and limits
    limits:   --rpm N, --tpm N (requests, tokens a minute), --concurrent N (requests at once); none takes one away

  cocoon-gateway usage [--account A] [--key ID] [--from DAY] [--to DAY] [--by day,account,model,key,user] [--csv]

  cocoon-gateway wallet create | import treasury | metering [--passphrase-file FILE]
                                               make the keys that pay, and that sign what is owed, sealed in data_dir
  cocoon-gateway wallet show                   the treasury's address

  cocoon-gateway payouts list [--all] [--account ACCOUNT]   what goes out to the chain
  cocoon-gateway payouts ask ACCOUNT ADDRESS TON --id ID   have an account's money paid out; fees are your own
  cocoon-gateway payouts run [WORKER]          pay earnings now, whatever the schedule
  cocoon-gateway payouts hold | release [ID]   one payout, or all
  cocoon-gateway payouts cancel ID --reason TEXT   its money goes back to its account
  cocoon-gateway payouts repair                after an older ledger was restored: apply what the chain shows
  cocoon-gateway suspense list                 sums that nobody known sent
  cocoon-gateway suspense refund ID            send one back
  cocoon-gateway suspense settle ID ACCOUNT    say whose it is, as customer:NAME

  cocoon-gateway registry show | propose | cancel | sign | send | apply | init
                                               what the network trusts, on the chain; 'registry help' says how

  cocoon-gateway audit                         compare ledger, journal and receipts; fails if anything is off

  cocoon-gateway workers list                  who dialed in, and who waits for approval
  cocoon-gateway workers approve ID
  cocoon-gateway workers revoke ID
  cocoon-gateway id                            what workers pin as this gateway's identity
  cocoon-gateway version

The commands take --config FILE (default gateway.yaml) or --data DIR, before or after their words, and work
while the gateway runs: a change counts within a second.
`
