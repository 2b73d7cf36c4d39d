package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"cocoon/attest"
	"cocoon/gateway"
	"cocoon/internal/tunnel"
)

// load reads the configuration; --data takes the place of its data_dir.
func load(o options) (gateway.Config, error) {
	return gateway.LoadConfig(o.config, o.data)
}

// gateway is the configuration's, or with --data alone that of a gateway that has all in that folder.
func (o *options) gateway() (gateway.Config, error) {
	if o.data != "" && !o.configGiven {
		return gateway.Config{DataDir: o.data}, nil
	}
	return load(*o)
}

// dataDir is the gateway's data folder: --data, or what the configuration says.
func dataDir(o options) (string, error) {
	if o.data != "" {
		return o.data, nil
	}
	cfg, err := load(o)
	return cfg.DataDir, err
}

func checkConfig(o options, stdout io.Writer) error {
	cfg, err := load(o)
	if err != nil {
		return err
	}
	p, err := attest.LoadPolicy(cfg.Policy)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "%s is fine, and so is its policy %q\n", o.config, p.Name)
	return err
}

func workers(o options, stdout io.Writer) error {
	dir, err := dataDir(o)
	if err != nil {
		return err
	}
	if len(o.words) == 0 {
		return fmt.Errorf("workers list, approve or revoke: %w", errUsage)
	}
	store := gateway.OpenWorkers(dir)
	switch o.words[0] {
	case "list":
		return listWorkers(store, stdout)
	case "approve", "revoke":
		args, err := o.args("one ID")
		if err != nil {
			return err
		}
		id := args[0]
		state := gateway.Approved
		if o.words[0] == "revoke" {
			state = gateway.Revoked
		}
		if err := store.Decide(id, state, time.Now()); err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s %s\n", state, id)
		return err
	}
	return fmt.Errorf("no command 'workers %s': %w", o.words[0], errUsage)
}

func listWorkers(store *gateway.Workers, stdout io.Writer) error {
	list, err := store.List()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tFIRST SEEN")
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\n", e.ID, e.State, e.First.Format(time.RFC3339))
	}
	return w.Flush()
}

// printID shows the identity, which the first start makes.
func printID(o options, stdout io.Writer) error {
	dir, err := dataDir(o)
	if err != nil {
		return err
	}
	identity, err := tunnel.LoadIdentity(filepath.Join(dir, gateway.IdentityFile))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, identity.ID())
	return err
}
