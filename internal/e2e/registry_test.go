package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/registry/registrytest"
)

// TestRegistry has everybody go by a contract: the gateway admits the releases that stand there, the worker serves the
// gateway that stands there and no other, and a user's verdict names it.
func TestRegistry(t *testing.T) {
	t.Parallel()
	policy, err := os.ReadFile(simulatedPolicy())
	if err != nil {
		t.Fatal(err)
	}
	chain := registrytest.Start(t)
	section := fmt.Sprintf("registry: {address: %s, network: %s}\n", chain.Address, chain.File)
	g, other := newGateway(t, "", "auto", quietMax, testMoney+section), newGateway(t, "", "auto", quietMax, testMoney)
	listed := fmt.Sprintf(`{"urls": [%q], "workers": %q, "id": %q}`, g.base, g.workers, strings.TrimSpace(g.operate(t, "id")))
	chain.Put(append(registrytest.Releases(t, policy, nil), &registry.Entry{
		Title: registry.Title{Kind: registry.Gateway, Name: "ours"}, Document: []byte(listed),
	})...)

	chain.CatchUp()
	g.restart(t)
	g.key = g.newKey(t)
	engine := startEcho(t, "m")
	chain.CatchUp()
	g.startWorkerWith(t, "one", engine, section)
	g.serves(t, chainMax, "m")
	if r := g.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("%v", r)
	}
	chain.CatchUp()
	out, problem, code := command(t, "cocoon", "verify", g.base, "--policy", simulatedPolicy(), "--registry", chain.Address.String(),
		"--network", chain.File, "--fetch=false", "--cache", t.TempDir())
	if said := out + problem; !strings.Contains(said, chain.Address.String()) || code == 0 {
		t.Errorf("verify: code %d\n%s", code, said)
	}

	other.restart(t)
	chain.CatchUp()
	w := other.startWorkerWith(t, "two", engine, section)
	w.logged(t, chainMax, "does not list this gateway")
	if list := other.operate(t, "workers", "list"); strings.Count(list, "\n") > 1 {
		t.Errorf("a worker came to a gateway that the registry does not list:\n%s", list)
	}
}
