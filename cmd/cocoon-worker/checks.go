package main

import (
	"context"
	"fmt"
	"io"

	"cocoon/worker"
)

func printID(_ context.Context, c worker.Config, stdout, _ io.Writer) error {
	id, err := worker.ID(c)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, id)
	return nil
}

func checkConfig(_ context.Context, c worker.Config, stdout, _ io.Writer) error {
	fmt.Fprintf(stdout, "configuration is sound: worker %q, %d gateways, engine %s at %s\n",
		c.Name, len(c.Gateways), c.Engine.Kind, c.Engine.URL)
	return nil
}
