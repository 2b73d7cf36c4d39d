package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/ollama"
)

const (
	// predictWarm is how long the router learns before its predictions count, and predictFor for how long they do unless
	// COCOON_E2E_PREDICT has another time.
	predictWarm = 5 * time.Second
	predictFor  = 6 * time.Second
	predictEnv  = "COCOON_E2E_PREDICT"
	// dutyPeriod is how often a paced engine runs and stands still. A token takes it some tenth of a millisecond.
	dutyPeriod = 25 * time.Millisecond
	// offTTFT and offTotal bound the median of |log(expected/measured)|: twice what it is on a busy machine with two CPUs. A
	// factor of 2 is 0.69.
	offTTFT  = 0.9
	offTotal = 0.9
)

// pacedEngine is a real Ollama that gets a part of one CPU, and its worker.
type pacedEngine struct {
	name  string
	share float64 // of a CPU
	id    string  // of the worker
}

// duty lets a process run for a share of the time, by SIGSTOP and SIGCONT, until the test ends: a quota without the rights
// that a control group takes. What a late wake-up lets it run too long is taken from its next turns.
func duty(t *testing.T, pid int, share float64) {
	ctx, cancel := context.WithCancel(context.Background())
	var stopped sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		stopped.Wait()
		_ = syscall.Kill(pid, syscall.SIGCONT) // it may be gone
	})
	stopped.Go(func() {
		began, ran := time.Now(), time.Duration(0)
		for ctx.Err() == nil {
			due := time.Duration(share*float64(time.Since(began)+dutyPeriod)) - ran
			if due > 0 {
				turn := time.Now()
				_ = syscall.Kill(pid, syscall.SIGCONT)
				time.Sleep(min(due, dutyPeriod))
				_ = syscall.Kill(pid, syscall.SIGSTOP)
				ran += time.Since(turn)
			}
			time.Sleep(dutyPeriod - min(max(due, 0), dutyPeriod))
		}
	})
}

// startPaced runs an Ollama with a share of a CPU, and a worker that sells it.
func (g *gateway) startPaced(t *testing.T, e *pacedEngine) {
	t.Helper()
	bin, err := ollama.Build(t.Context(), filepath.Join(repoRoot(t), "bin"), func(line string) { t.Log(line) })
	if err != nil {
		t.Skipf("no real engine: Ollama can't be built: %v", err)
	}
	srv, err := ollama.Start(t.Context(), ollama.Config{Binary: bin, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	before := runners(t)
	direct := client{base: srv.URL()}
	load := prompt(ollama.Tiny, capitalOfFrance)
	resp, err := direct.send(t.Context(), http.MethodPost, "/v1/chat/completions", load)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, pid := range runners(t) {
		if !slices.Contains(before, pid) {
			duty(t, pid, e.share)
		}
	}
	dir := t.TempDir()
	w := &worker{config: filepath.Join(dir, "worker.yaml"), data: filepath.Join(dir, "data")}
	text := fmt.Sprintf(workerYAML, e.name, w.data, g.workers, strings.TrimSpace(g.operate(t, "id")), srv.URL())
	writeFile(t, w.config, strings.Replace(text, "slots: 64", "slots: 4", 1)+outcomePrice)
	w.restart(t, e.name)
	e.id = w.id(t)
}

// runners are the processes in which Ollamas of this test run models.
func runners(t *testing.T) []int {
	t.Helper()
	var pids []int
	for _, pid := range descendants(t, os.Getpid()) {
		args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && strings.Contains(string(args), "\x00runner\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// foretold is one request: what the router expected of the worker that it chose, and what came.
type foretold struct {
	worker    string
	pinned    bool // the client named the worker
	late      bool // after the warm-up
	tokens    int64
	want, got figures
}

// figures are times in ms, nanoTON, and tokens of the prompt that were cached.
type figures struct{ ttft, total, cost, cached float64 }

// TestPrediction runs three real Ollamas with different shares of a CPU behind one gateway, and holds what the router
// expected of each request against what came of it: the market simulator is worth no more than that. With -v it prints the
// table.
func TestPrediction(t *testing.T) {
	g := startGateway(t, "auto")
	engines := []*pacedEngine{{name: "quick", share: 0.4}, {name: "steady", share: 0.2}, {name: "slow", share: 0.08}}
	for _, e := range engines {
		g.startPaced(t, e)
	}
	eventually(t, startMax, "all workers serve", func() bool { return g.serving(t, ollama.Tiny) == len(engines) })
	lasts := predictFor
	if d, err := time.ParseDuration(os.Getenv(predictEnv)); err == nil {
		lasts = d
	}
	var mu sync.Mutex
	var all []foretold
	failed := 0
	began := time.Now()
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			talk := talker{r: rand.New(rand.NewPCG(1, uint64(i)))}
			for n := 0; time.Since(began) < predictWarm+lasts; n++ {
				if i == 0 { // one client asks each worker in turn, so that all of them are measured
					talk.pin = engines[n%len(engines)].name
				}
				f, ok := g.foretell(t, &talk)
				f.late = time.Since(began) > predictWarm
				mu.Lock()
				if all = append(all, f); !ok {
					all = all[:len(all)-1]
					failed++
				}
				mu.Unlock()
				time.Sleep(time.Duration(talk.r.IntN(200)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	if failed*10 > len(all) {
		t.Errorf("%d requests failed, %d did not", failed, len(all))
	}
	judge(t, engines, all)
}

// talker is a client with a conversation.
type talker struct {
	r        *rand.Rand
	pin      string // the worker's name, if it must be that one
	messages []string
	bytes    int
}

// talkMax is how much a conversation may have, bytes: less than the tiny model's window.
const talkMax = 2800

// body is the next request of the conversation, or of a new one.
func (k *talker) body() string {
	words := strings.Fields("apple river cloud green table music light paper orange")
	n := 10 + k.r.IntN(20)
	if k.pin != "" || k.bytes > talkMax || len(k.messages) > 6 || k.r.IntN(3) == 0 {
		k.messages, k.bytes, n = nil, 0, 20+k.r.IntN(300)
	}
	var text strings.Builder
	for range n {
		text.WriteString(words[k.r.IntN(len(words))] + " ")
	}
	k.add("user", text.String()+"Tell me a story.")
	fields := []string{
		`"model":"` + ollama.Tiny + `"`, `"messages":[` + strings.Join(k.messages, ",") + `]`, streamed,
		fmt.Sprintf(`"temperature":1,"seed":%d,"max_tokens":%d`, k.r.IntN(1000), 40+k.r.IntN(260)),
	}
	if k.pin != "" {
		fields = append(fields, `"provider":{"only":["`+k.pin+`"]}`)
	}
	return "{" + strings.Join(fields, ",") + "}"
}

func (k *talker) add(role, text string) {
	content, _ := json.Marshal(text) // strings always marshal
	k.messages = append(k.messages, `{"role":"`+role+`","content":`+string(content)+`}`)
	k.bytes += len(text)
}

// foretell sends one streaming chat and compares. It is false for one that failed: the tiny model's engine gives up
// answers that go round in circles.
func (g *gateway) foretell(t *testing.T, talk *talker) (f foretold, ok bool) {
	answer, err := g.chat(t.Context(), talk.body())
	if err != nil || !answer.succeeded() {
		t.Logf("failed: %v %v", answer, err)
		talk.bytes = talkMax + 1
		return f, false
	}
	talk.add("assistant", answer.text)
	told := g.generation(t, answer.header.Get("X-Request-Id"))
	if len(told.Routing.Attempts) == 0 {
		t.Errorf("nothing is told of a request: %+v", told)
		return f, false
	}
	last := told.Routing.Attempts[len(told.Routing.Attempts)-1]
	p, ok := last.picked()
	f = foretold{worker: last.Worker, pinned: talk.pin != "", tokens: told.Completion}
	f.want = figures{float64(p.TTFT), float64(p.Total), float64(p.Cost), float64(p.Cached)}
	f.got = figures{
		float64(told.Latency - last.Started), float64(told.Latency + told.Generation - last.Started),
		float64(*told.Cost), float64(told.Routing.Cached.Actual),
	}
	return f, ok
}

// judge prints the table and fails a router that was wrong.
func judge(t *testing.T, engines []*pacedEngine, all []foretold) {
	t.Helper()
	late := slices.DeleteFunc(slices.Clone(all), func(f foretold) bool { return !f.late })
	var table strings.Builder
	table.WriteString("| worker | CPU | requests | chosen | their tokens | TTFT expected | measured | off by | " +
		"total expected | measured | off by | cost expected | paid | cached expected | found |\n" +
		"| --- |" + strings.Repeat(" --: |", 14) + "\n")
	var tokens []int64
	for _, e := range engines {
		list := slices.DeleteFunc(slices.Clone(late), func(f foretold) bool { return f.worker != e.id })
		tokens = append(tokens, row(&table, e.name, fmt.Sprintf("%.0f %%", 100*e.share), list))
	}
	row(&table, "all", "", late)
	t.Logf("medians, ms; means, nanoTON and tokens of a prompt\n%s", table.String())
	if most := slices.Max(tokens); tokens[len(tokens)-1] >= most || slices.Min(tokens) != tokens[len(tokens)-1] {
		t.Errorf("all ask the same, and the slowest was not given the fewest tokens: %v", tokens)
	}
	if off := middle(late, offOf(figures.first)); !(off < offTTFT) {
		t.Errorf("the times to first tokens are off by %.2f, at most %.2f", off, offTTFT)
	}
	if off := middle(late, offOf(figures.whole)); !(off < offTotal) {
		t.Errorf("the times of whole answers are off by %.2f, at most %.2f", off, offTotal)
	}
}

// row is a line of the table; it returns the tokens of requests that could have had another worker.
func row(table *strings.Builder, name, share string, list []foretold) (tokens int64) {
	chosen := 0
	for _, f := range list {
		if !f.pinned {
			chosen++
			tokens += f.tokens
		}
	}
	fmt.Fprintf(table, "| %s | %s | %d | %d | %d |", name, share, len(list), chosen, tokens)
	for _, of := range []func(figures) float64{figures.first, figures.whole} { // how far off is a median, too
		fmt.Fprintf(table, " %.0f | %.0f | %.0f %% |", middle(list, func(f foretold) float64 { return of(f.want) }),
			middle(list, func(f foretold) float64 { return of(f.got) }), 100*(math.Exp(middle(list, offOf(of)))-1))
	}
	fmt.Fprintf(table, " %.0f | %.0f | %.0f | %.0f |\n",
		mean(list, func(f foretold) float64 { return f.want.cost }), mean(list, func(f foretold) float64 { return f.got.cost }),
		mean(list, func(f foretold) float64 { return f.want.cached }), mean(list, func(f foretold) float64 { return f.got.cached }))
	return tokens
}

func (f figures) first() float64 { return f.ttft }
func (f figures) whole() float64 { return f.total }

// offOf is how far off one of the figures was, whichever way. What is told is in whole ms.
func offOf(of func(figures) float64) func(foretold) float64 {
	return func(f foretold) float64 { return math.Abs(math.Log(max(of(f.want), 1) / max(of(f.got), 1))) }
}

// middle is the median of something about requests, and mean its mean; not a number without any.
func middle(list []foretold, of func(foretold) float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	var v []float64
	for _, f := range list {
		v = append(v, of(f))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

func mean(list []foretold, of func(foretold) float64) float64 {
	sum := 0.0
	for _, f := range list {
		sum += of(f)
	}
	return sum / float64(len(list))
}
