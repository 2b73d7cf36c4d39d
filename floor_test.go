// Package cocoon_test holds the rules that the whole module obeys: who may import whom, which package may use which
// foreign module, how long things may be, what must be documented, and what no file may contain.
package cocoon_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/attest"
	"cocoon/gateway"
	"cocoon/worker"
)

const module = "cocoon"

// plan says which packages of this module each package imports, tests aside: they may import what they test with. The
// plan is exact: a new package, a new arrow, and one that is no longer there, is a decision to be made here.
var plan = map[string][]string{
	// The programs.
	"cmd/cocoon": {
		"attest", "attest/channel", "attest/collateral", "internal/config", "internal/daemon", "internal/nanoton",
		"internal/receipt", "internal/strictjson", "internal/terminal", "internal/treeproof",
		"billing/ton", "billing/ton/registry", "billing/ton/tab", "billing/ton/wallet", "internal/durable", "internal/passphrase", "internal/trust",
	},
	"cmd/cocoon-gateway": {
		"attest", "attest/device", "billing/ledger", "billing/ton", "billing/ton/registry", "billing/ton/wallet",
		"billing/treasury", "gateway", "gateway/accounts", "gateway/clerk", "gateway/wish", "internal/config", "internal/daemon",
		"internal/nanoton", "internal/passphrase", "internal/terminal", "internal/tunnel",
	},
	"cmd/cocoon-worker": {
		"attest/device", "billing/ton", "internal/config", "internal/daemon", "internal/nanoton", "router/offer", "worker",
		"worker/vouchers",
	},
	"cmd/cocoon-gpu": {"attest/device/helper"},
	"cmd/cocoon-dev": {
		"attest", "attest/simtee", "billing/ton", "billing/ton/devnet", "billing/ton/wallet", "gateway", "gateway/accounts",
		"internal/daemon", "internal/durable", "internal/nanoton", "internal/ollama", "internal/secret", "internal/strictjson",
		"internal/terminal", "router/offer", "worker", "worker/engine",
	},

	// The roles.
	"gateway": {
		"attest", "attest/channel", "attest/collateral", "attest/nvgpu", "billing", "billing/ledger", "billing/tabs", "billing/tally",
		"billing/ton", "billing/ton/tab", "billing/ton/wallet", "billing/treasury",
		"gateway/accounts", "gateway/clerk", "gateway/market", "gateway/rates", "gateway/wish", "internal/passphrase", "internal/config", "internal/daemon", "internal/durable", "internal/front",
		"internal/h1", "internal/nanoton", "internal/openai", "internal/receipt", "internal/secret", "internal/sse",
		"internal/strictjson", "internal/treeproof", "internal/trust", "internal/tunnel", "router", "router/offer", "router/prefix",
	},
	"gateway/accounts": {"billing/ledger", "internal/nanoton", "internal/secret", "internal/strictjson", "router/offer"},
	"gateway/clerk": {
		"attest", "billing", "billing/ledger", "billing/tally", "internal/durable", "internal/nanoton", "internal/receipt",
		"internal/strictjson", "router/offer",
	},
	"gateway/market":    {"internal/nanoton", "router", "router/offer"},
	"gateway/rates":     {"billing/ledger", "internal/nanoton", "internal/strictjson"},
	"gateway/wish":      {"internal/openai", "router", "router/offer"},
	"router":            {"internal/nanoton", "router/offer", "router/prefix"},
	"router/prefix":     nil,
	"router/sim":        {"internal/nanoton", "router", "router/offer", "router/prefix"}, // for tests and measurements
	"router/sim/report": {"router/sim"},
	"router/offer":      {"internal/nanoton"},
	"worker": {
		"attest", "attest/channel", "attest/collateral", "billing/ton", "internal/config", "internal/daemon", "internal/nanoton",
		"internal/durable", "internal/openai", "internal/receipt", "internal/strictjson", "internal/trust", "internal/tunnel", "router/offer",
		"worker/engine", "worker/receipts", "worker/vouchers",
	},
	"worker/engine": {"internal/openai", "internal/sse", "router/offer"},

	// Attestation: strict verifiers of vendors' evidence, the policy over them, and how both sides get what they need.
	"attest":               {"attest/nvgpu", "attest/opinion", "attest/snp", "attest/tdx", "internal/config", "internal/strictjson"},
	"attest/snp":           nil,
	"attest/tdx":           nil,
	"attest/nvgpu":         nil,
	"attest/opinion":       {"attest/snp", "attest/tdx"},
	"attest/collateral":    {"attest", "attest/nvgpu", "attest/snp", "attest/tdx", "internal/strictjson"},
	"attest/channel":       {"attest"},
	"attest/device":        {"attest", "attest/device/helper", "attest/snp", "attest/tdx"},
	"attest/device/helper": {"internal/strictjson"},
	"internal/trust":       {"attest", "attest/snp", "billing/ton", "billing/ton/registry", "internal/config"},

	// Simulated hardware. No program that verifies links it: see TestNoSimulator.
	"attest/simtee": {
		"attest", "attest/nvgpu", "attest/simtee/nvgpu", "attest/simtee/snp", "attest/simtee/tdx", "attest/snp", "attest/tdx",
		"internal/durable",
	},
	"attest/simtee/keys":  nil,
	"attest/simtee/snp":   {"attest/simtee/keys", "attest/snp"},
	"attest/simtee/tdx":   {"attest/simtee/keys", "attest/tdx"},
	"attest/simtee/nvgpu": {"attest/nvgpu", "attest/simtee/keys"},

	// Money and receipts.
	"billing":                   {"billing/journal", "billing/ledger", "internal/nanoton"},
	"billing/journal":           {"internal/durable"},
	"billing/ledger":            {"internal/nanoton"},
	"billing/ledger/ledgertest": nil, // a PostgreSQL for tests
	"billing/tally":             {"internal/durable", "internal/receipt", "internal/recordfile", "internal/treeproof"},
	"worker/receipts":           {"internal/durable", "internal/nanoton", "internal/receipt", "internal/recordfile"},

	// The chain, and what is done with money there.
	"billing/treasury": {
		"billing", "billing/ledger", "billing/ton", "billing/ton/wallet", "internal/nanoton", "internal/strictjson",
	},
	"billing/tabs": {
		"billing", "billing/ledger", "billing/ton", "billing/ton/tab", "billing/ton/wallet", "internal/nanoton", "internal/receipt",
		"internal/strictjson",
	},
	"billing/ton":           {"internal/durable", "internal/nanoton", "internal/strictjson"},
	"billing/ton/contracts": nil,
	"billing/ton/devnet":    {"internal/durable", "internal/nanoton", "internal/recordfile", "internal/strictjson"},
	"billing/ton/registry": {
		"billing/ton", "billing/ton/contracts", "internal/config", "internal/durable", "internal/nanoton", "internal/strictjson",
	},
	"billing/ton/registry/registrytest": {"billing/ton", "billing/ton/devnet", "billing/ton/registry", "billing/ton/wallet", "internal/config"}, // for tests
	"billing/ton/tab": {
		"billing/ton", "billing/ton/contracts", "billing/ton/wallet", "internal/nanoton", "internal/receipt", "internal/strictjson",
	},
	"billing/ton/wallet": {"billing/ton", "internal/durable", "internal/nanoton"},
	"worker/vouchers": {
		"billing/ton", "billing/ton/tab", "internal/durable", "internal/nanoton", "internal/receipt", "internal/strictjson",
	},

	// The leaves.
	"internal/config":     nil,
	"internal/daemon":     nil,
	"internal/durable":    nil,
	"internal/front":      {"internal/daemon"},
	"internal/h1":         nil,
	"internal/nanoton":    nil,
	"internal/openai":     nil,
	"internal/passphrase": nil,
	"internal/secret":     nil,
	"internal/receipt":    {"internal/nanoton", "internal/strictjson", "router/offer"},
	"internal/recordfile": {"internal/durable"},
	"internal/sse":        nil,
	"internal/strictjson": nil,
	"internal/terminal":   nil,
	"internal/treeproof":  nil,
	"internal/tunnel":     {"internal/durable", "internal/h1"},

	// For development, tests and measurements: none of the roles imports them.
	"internal/bench": {
		"attest", "attest/channel", "attest/simtee", "internal/bench/load", "internal/bench/mock", "internal/daemon",
		"internal/nanoton", "internal/receipt", "internal/tunnel", "router/offer",
	},
	"internal/bench/hist":      nil,
	"internal/bench/load":      {"internal/bench/hist", "internal/bench/mock"},
	"internal/bench/mock":      nil,
	"internal/e2e":             nil,
	"internal/ollama":          {"internal/tinymodel"},
	"internal/ollama/build":    {"internal/ollama"},
	"internal/tinymodel":       nil,
	"internal/tinymodel/train": {"internal/tinymodel"},
	"worker/engine/enginetest": nil,
}

// foreign says which packages may import a module that isn't ours, or one package of it; below a package counts too.
// Tests may import all of them, but for sdkTests.
var foreign = map[string][]string{
	"filippo.io/age":                      {"billing/ton/wallet"},
	"github.com/NVIDIA/go-nvml":           {"cmd/cocoon-gpu"},
	"github.com/go-chi/chi/v5":            {"gateway"},
	"github.com/google/go-configfs-tsm":   {"attest/device"},
	"github.com/google/go-sev-guest":      {"attest/opinion", "attest/device"},
	"github.com/google/go-tdx-guest":      {"attest/opinion"},
	"github.com/google/go-cmp":            {},
	"github.com/ollama/ollama/api":        {"worker/engine"},
	"github.com/ollama/ollama/types":      {"worker/engine"},
	"github.com/openai/openai-go/v3":      {},
	"github.com/jackc/pgx/v5":             {"billing/ledger"},
	"github.com/prometheus/client_golang": {"gateway", "worker", "cmd"},
	"github.com/rogpeppe/go-internal":     {},
	"github.com/sashabaranov/go-openai":   {"cmd/cocoon"},
	"github.com/xssnick/tonutils-go":      {"billing/ton"},
	"go.uber.org/goleak":                  {},
	"go.yaml.in/yaml/v4":                  {"internal/config"},
	"golang.org/x/mod":                    {"billing/tally", "internal/treeproof", "cmd/cocoon"},
	"golang.org/x/term":                   {"internal/passphrase"},
	"golang.org/x/time/rate":              {"attest/collateral", "gateway/accounts"},
	"golang.org/x/sync":                   {"gateway", "worker", "cmd", "internal/bench", "attest/collateral"},
	"modernc.org/sqlite":                  {"billing/ledger"},
	"pgregory.net/rapid":                  {},
	"rsc.io/qr":                           {"cmd/cocoon", "gateway"},
}

// sdkTests is where tests may use the clients of others: they are no part of what we test with elsewhere.
var sdkTests = map[string]string{
	"github.com/sashabaranov/go-openai": "internal/e2e",
	"github.com/openai/openai-go/v3":    "internal/e2e",
}

// Budgets.
const (
	fileMax     = 800 // lines
	funcMax     = 100 // lines
	testFuncMax = 150 // lines: tables of cases are long
	mainMax     = 150 // lines of a cmd's main.go
	paramMax    = 5   // beyond that: a Config
)

// vars are the package variables that are neither errors nor embedded files: tables that nothing writes to, version
// stamps of the linker, and pools, which hold memory and no state.
var vars = map[string][]string{
	"cmd/cocoon":         {"version"},
	"cmd/cocoon-dev":     {"version"},
	"cmd/cocoon-gateway": {"version"},
	"cmd/cocoon-worker":  {"version"},
	"gateway":            {"words"},
	"internal/front":     {"readPool", "writePool"},
	"internal/h1":        {"readPool", "tokenChar", "writePool"},
	"internal/openai":    {"fieldNames"},
	"worker":             {"errFullAnswer"},
	"worker/engine":      {"requestFields"},
	"internal/tinymodel": {
		"capitals", "names", "weathers", "words", "systems", "toolNames", "fixed", "controlTokens", "userTokens",
	},
}

// source is one Go file of the module.
type source struct {
	path, pkg string // pkg is the folder
	fset      *token.FileSet
	file      *ast.File
}

func (s *source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s *source) at(n ast.Node) string { return s.fset.Position(n.Pos()).String() }

func (s *source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// skipped are folders that hold nothing of ours.
func skipped(name string) bool {
	return slices.Contains([]string{".git", "bin", "data", "node_modules"}, name)
}

// walk calls f for each file of the repository.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skipped(d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			f(filepath.ToSlash(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	walk(t, func(p string) {
		if path.Ext(p) != ".go" || strings.Contains(p, "/testdata/") {
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &source{p, path.Dir(p), fset, file})
	})
	if len(all) == 0 {
		t.Fatal("no Go files")
	}
	return all
}

func TestFloorPlan(t *testing.T) {
	seen := map[string]bool{".": true}
	used := map[[2]string]bool{}
	for _, s := range sources(t) {
		allowed, known := plan[s.pkg]
		if !known && s.pkg != "." && !seen[s.pkg] {
			t.Errorf("%s: not on the floor plan", s.pkg)
		}
		seen[s.pkg] = true
		for _, i := range s.file.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if ours, ok := strings.CutPrefix(name, module+"/"); ok {
				used[[2]string{s.pkg, ours}] = used[[2]string{s.pkg, ours}] || !s.test()
				if !s.test() && !slices.Contains(allowed, ours) {
					t.Errorf("%s: %s imports %s, which is not on the floor plan", s.at(i), s.pkg, ours)
				}
			} else if strings.Contains(strings.Split(name, "/")[0], ".") {
				checkForeign(t, s, i, name)
			}
		}
	}
	for pkg, imports := range plan {
		if !seen[pkg] {
			t.Errorf("%s is on the floor plan but does not exist", pkg)
			continue
		}
		for _, i := range imports {
			if !used[[2]string{pkg, i}] {
				t.Errorf("%s may import %s by the floor plan, but does not", pkg, i)
			}
		}
	}
}

func checkForeign(t *testing.T, s *source, i *ast.ImportSpec, name string) {
	t.Helper()
	for mod, users := range foreign {
		if !within(name, mod) {
			continue
		}
		if s.test() {
			if only := sdkTests[mod]; only != "" && s.pkg != only && s.pkg != "." {
				t.Errorf("%s: tests in %s import %s; only those in %s may", s.at(i), s.pkg, name, only)
			}
			return
		}
		if !slices.ContainsFunc(users, func(u string) bool { return within(s.pkg, u) }) {
			t.Errorf("%s: %s imports %s; allowed in %v", s.at(i), s.pkg, name, users)
		}
		return
	}
	t.Errorf("%s: %s imports %s, a module that is not on the list", s.at(i), s.pkg, name)
}

// within tells whether a path is folder or below it.
func within(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }

// What our users install links nothing that it does not need: the smaller it is, the more an attested image is worth.
// (That database/sql is in the worker, and its driver's interfaces in both, is the doing of Ollama's types and of google's
// uuid; without a driver they do nothing.)
func TestDependencyClosure(t *testing.T) {
	both := map[string]string{
		"billing/ledger": "money stays with the gateway", "billing/journal": "the Desk's", "billing/treasury": "the gateway's",
		"billing/tabs": "the gateway's", "billing/tally": "the gateway's", "gateway": "another role",
		"billing/ton/devnet": "for development only",
		"internal/tinymodel": "for development only", "internal/ollama": "for development only",
		"modernc.org": "no SQL here", "github.com/jackc": "no SQL here", "github.com/mattn": "no SQL here",
		"github.com/go-chi": "the gateway's",
	}
	for program, more := range map[string]map[string]string{
		"cocoon-worker": {"github.com/sashabaranov": "a client's", "github.com/NVIDIA": "cocoon-gpu's: it needs cgo"},
		"cocoon": {
			"worker": "another role", "internal/tunnel": "between worker and gateway", "github.com/ollama": "the worker's",
			"github.com/prometheus": "a daemon's",
		},
	} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/"+program).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			dep = strings.TrimPrefix(dep, module+"/")
			if dep == "router" { // router/offer is for both sides
				t.Errorf("%s links %s: routing is the gateway's", program, dep)
			}
			for _, bad := range []map[string]string{both, more} {
				for prefix, why := range bad {
					if within(dep, prefix) {
						t.Errorf("%s links %s: %s", program, dep, why)
					}
				}
			}
		}
	}
}

// Each sample configuration is one that its program takes.
func TestConfigs(t *testing.T) {
	files, err := filepath.Glob("configs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("configs: %v, %v", files, err)
	}
	for _, f := range files {
		switch name := filepath.Base(f); {
		case strings.HasPrefix(name, "gateway"):
			_, err = gateway.LoadConfig(f, "")
		case strings.HasPrefix(name, "worker"):
			_, err = worker.LoadConfig(f)
		case strings.HasPrefix(name, "policy"):
			_, err = attest.LoadPolicy(f)
		default:
			t.Errorf("%s: which program's is it?", f)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestNoSimulator: what anybody installs holds no simulated hardware and no play money. cocoon-dev alone does.
func TestNoSimulator(t *testing.T) {
	for _, program := range []string{"cocoon", "cocoon-gateway", "cocoon-worker", "cocoon-gpu"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/"+program).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if within(dep, module+"/attest/simtee") || within(dep, module+"/billing/ton/devnet") {
				t.Errorf("%s links %s", program, dep)
			}
		}
	}
}

func TestBudgets(t *testing.T) {
	for _, s := range sources(t) {
		n := s.fset.File(s.file.Pos()).LineCount()
		if n > fileMax {
			t.Errorf("%s: %d lines, limit %d", s.path, n, fileMax)
		}
		if strings.HasPrefix(s.pkg, "cmd/") && path.Base(s.path) == "main.go" && n > mainMax {
			t.Errorf("%s: %d lines, limit %d for a main", s.path, n, mainMax)
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			limit := funcMax
			if s.test() {
				limit = testFuncMax
			}
			if n := s.lines(fn); n > limit {
				t.Errorf("%s: %s is %d lines, limit %d", s.at(fn), fn.Name.Name, n, limit)
			}
			if n := fn.Type.Params.NumFields(); n > paramMax && !s.test() {
				t.Errorf("%s: %s takes %d parameters, limit %d: make it a Config", s.at(fn), fn.Name.Name, n, paramMax)
			}
		}
	}
}

func TestNoHiddenState(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					t.Errorf("%s: func init: wire it in main", s.at(d))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					checkVars(t, s, d)
				}
			}
		}
	}
}

// checkVars lets errors, embedded files, interface assertions and the listed tables pass.
func checkVars(t *testing.T, s *source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		if embedded(d.Doc) || embedded(v.Doc) {
			continue
		}
		for i, name := range v.Names {
			if name.Name == "_" || slices.Contains(vars[s.pkg], name.Name) {
				continue
			}
			if i < len(v.Values) && isError(name.Name, v.Values[i]) {
				continue
			}
			t.Errorf("%s: package variable %s: pass it, or make it a constant; a table that nothing writes may go on "+
				"the list in floor_test.go", s.at(v), name.Name)
		}
	}
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}

// isError tells a sentinel: errX or ErrX, made by errors.New or fmt.Errorf.
func isError(name string, value ast.Expr) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok || !strings.HasPrefix(strings.ToLower(name), "err") {
		return false
	}
	fn, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (fn.Sel.Name == "New" || fn.Sel.Name == "Errorf")
}

func TestDocumented(t *testing.T) {
	documented := map[string]bool{}
	files := sources(t)
	for _, s := range files {
		if s.file.Doc != nil {
			documented[s.pkg] = true
		}
		if s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			checkDocs(t, s, d)
		}
	}
	for _, s := range files {
		if !documented[s.pkg] {
			documented[s.pkg] = true // once
			t.Errorf("package %s has no doc comment", s.pkg)
		}
	}
}

func checkDocs(t *testing.T, s *source, d ast.Decl) {
	t.Helper()
	missing := func(n ast.Node, name string) { t.Errorf("%s: %s is exported and not documented", s.at(n), name) }
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			missing(d, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
					missing(spec, spec.Name.Name)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						missing(spec, name.Name)
					}
				}
			}
		}
	}
}

// exportedReceiver is true for functions, and for methods that others can see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// Nothing of the machine that a file was written on gets into it: no paths, no names of package registries (a lock
// file with them would not work behind a mirror).
func TestNoTraces(t *testing.T) {
	traces := []string{
		"/" + "work/", "/" + "root/", "proxy.golang" + ".org", "registry.npmjs" + ".org", "deb.debian" + ".org",
		"sum.golang" + ".org",
	}
	walk(t, func(p string) {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, trace := range traces {
			if before, _, ok := bytes.Cut(text, []byte(trace)); ok {
				t.Errorf("%s:%d: holds %q", p, 1+bytes.Count(before, []byte("\n")), trace)
			}
		}
	})
}
