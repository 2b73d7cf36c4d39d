# Cocoon. "make run" starts the whole network on this machine; "make help" lists the rest.

GO       ?= go
BIN      := bin
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
PROGRAMS := ./cmd/cocoon ./cmd/cocoon-gateway ./cmd/cocoon-worker ./cmd/cocoon-dev
NODE_DIR := internal/e2e/node
CONTRACTS_DIR := billing/ton/contracts

# Tools are pinned here and run from Go's module cache, so that go.mod stays free of them.
GOFUMPT     := $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# need checks that a tool is there: $(call need,TOOL,what to do about it)
need = command -v $(1) >/dev/null 2>&1 || { echo "make: no $(1) command: $(2)" >&2; exit 1; }

# NVIDIA's header marks functions that its Go bindings still have as deprecated: hundreds of warnings, none of ours.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations

.DEFAULT_GOAL := help
.PHONY: help run build test engine node tolk contracts check format bench sim fuzz clean go

help:
	@echo "make run     build, start gateway, worker and engine on this machine, and say how to use them"
	@echo "make build   the four programs, static, and cocoon-gpu (needs a C compiler) into $(BIN)/"
	@echo "make test    everything, with the race detector (the first time builds an engine: minutes)"
	@echo "make check   format, vet, staticcheck, modernizers"
	@echo "make format  let gofumpt format all files"
	@echo "make contracts  compile the smart contracts again (needs npm)"
	@echo "make fuzz    each fuzz target for FUZZTIME=$(FUZZTIME)"
	@echo "make bench   the gateway beside nginx, a plain proxy and a direct connection"
	@echo "make sim     the router in a simulated market, beside other policies: docs/routing.md"
	@echo "make clean   remove $(BIN)/ and data/"

go:
	@$(call need,$(GO),install Go 1.26 or newer from https://go.dev/dl)

run: build
	@exec $(BIN)/cocoon-dev

build: go
	@echo "building cocoon, cocoon-gateway, cocoon-worker, cocoon-dev, cocoon-gpu into $(BIN)/"
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $(PROGRAMS)
	@if command -v $(or $(CC),cc) >/dev/null 2>&1; then \
		CGO_ENABLED=1 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/ ./cmd/cocoon-gpu; \
	else echo "no C compiler: $(BIN)/cocoon-gpu, which workers with NVIDIA GPUs need, is left out"; fi

test: engine node tolk
	@$(call need,$(or $(CC),cc),the race detector needs a C compiler; on Debian: apt-get install build-essential)
	@echo "testing everything, with the race detector"
	@CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 30m ./internal/e2e ./... # the longest first, so that nothing waits for it
	@echo "testing every crash point of what moves money on the chain, without the race detector, which is six times slower"
	@$(GO) test -run Crash ./billing/treasury ./billing/tabs
	@echo "testing the router in simulated markets, without the race detector"
	@$(GO) test ./router/sim

# The engine of the tests, a real Ollama: minutes the first time, then nothing.
engine: go
	@echo "looking for the tests' engine, $(BIN)/ollama"
	@$(GO) run ./internal/ollama/build -bin $(BIN)

# OpenAI's own client for Node, for the tests that drive it.
node:
	@if [ ! -f $(NODE_DIR)/package-lock.json ]; then echo "no Node tests here"; \
	elif ! command -v npm >/dev/null 2>&1; then \
		echo "no npm command: the tests of OpenAI's Node client will be skipped; on Debian: apt-get install npm"; \
	elif [ $(NODE_DIR)/node_modules/.package-lock.json -nt $(NODE_DIR)/package-lock.json ]; then \
		echo "OpenAI's client for Node is there"; \
	else echo "installing OpenAI's client for Node"; \
		npm ci --prefix $(NODE_DIR) --no-audit --no-fund --loglevel=error || \
		{ echo "make: npm ci failed: is the npm registry within reach?" >&2; exit 1; }; fi

# The contracts' compiler, for the test that compiles them again and compares.
tolk:
	@if ! command -v npm >/dev/null 2>&1; then \
		echo "no npm command: the contracts will not be compiled again; on Debian: apt-get install npm"; \
	elif [ $(CONTRACTS_DIR)/node_modules/.package-lock.json -nt $(CONTRACTS_DIR)/package-lock.json ]; then \
		echo "the Tolk compiler is there"; \
	else echo "installing the Tolk compiler"; \
		npm ci --prefix $(CONTRACTS_DIR) --no-audit --no-fund --loglevel=error || \
		{ echo "make: npm ci failed: is the npm registry within reach?" >&2; exit 1; }; fi

# The smart contracts, compiled again from their sources. What comes out is kept in the repository.
contracts: tolk
	@$(call need,npm,only needed to change the contracts; on Debian: apt-get install npm)
	@echo "compiling the contracts"
	@cd $(CONTRACTS_DIR) && node compile.mjs

check: go
	@echo "checking the format (gofumpt)"
	@files=$$($(GOFUMPT) -l .) || { echo "make: gofumpt did not run" >&2; exit 1; }; \
	[ -z "$$files" ] || { echo "$$files"; echo "make: these files are not formatted: run 'make format'" >&2; exit 1; }
	@echo "checking with go vet"
	@$(GO) vet ./...
	@echo "checking with staticcheck"
	@$(STATICCHECK) ./...
	@echo "checking for old idioms (go fix)"
	@diff=$$($(GO) fix -diff ./... 2>&1); [ -z "$$diff" ] || \
		{ echo "$$diff"; echo "make: go fix has something to say: run '$(GO) fix ./...'" >&2; exit 1; }

format: go
	@echo "formatting all files"
	@$(GOFUMPT) -w .

bench: build
	@echo "measuring: takes minutes, wants an idle machine"
	@$(GO) run ./internal/bench

# The market simulator: the same seeds give the same tables and plots.
sim: go
	@echo "simulating markets: takes minutes"
	@$(GO) run ./router/sim/report -docs docs

fuzz: go
	@found=; for file in $$(grep -rl --include='*_test.go' --exclude-dir=node_modules --exclude-dir=data '^func Fuzz' .); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			found=1; echo "fuzzing $$(dirname "$$file") $$name for $(FUZZTIME)"; \
			$(GO) test -run='^$$' -fuzz="^$$name\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1x "$$(dirname "$$file")" || exit 1; \
		done; \
	done; [ -n "$$found" ] || echo "no fuzz targets"

clean:
	@echo "removing $(BIN)/ and data/"
	@rm -rf $(BIN) data
