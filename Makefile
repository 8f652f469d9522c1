# What a newcomer types. A Debian machine needs Rust, Node and Python; the rest comes with `make setup`,
# on which the others depend and which takes a second where nothing is missing.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo up release test quick test-crate simulate fuzz setup build page client clients lint check fmt bench bench-ingest bench-ledger bench-fairness bench-uploads bench-embeddings test-clients test-large clean

export PATH := $(CURDIR)/.caudal/tools/bin:$(CURDIR)/infra/tools/node_modules/.bin:$(PATH):$(HOME)/.cargo/bin
# Tests do not pass over what they need where this is said.
test: export CAUDAL_REQUIRE_PAGE = 1

export CAUDAL_MODEL_DIR ?= $(CURDIR)/.caudal/models/all-minilm-l6-v2
export CAUDAL_PDFIUM ?= $(CURDIR)/.caudal/lib/libpdfium.so

# Where `make up` keeps everything, and where it listens.
DATA_DIR ?= .caudal/data
LISTEN ?= 127.0.0.1:7410

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup page build ## Start the embedded system, ingest docs/samples, show how each file ended
	@infra/demo

up: setup page build ## Run the embedded system until Ctrl-C (DATA_DIR, LISTEN)
	@exec target/debug/caudal up --data-dir "$(DATA_DIR)" --listen "$(LISTEN)"

release: setup page ## Build the release binary, target/release/caudal, and the page
	cargo build --release --locked --bin caudal

# clippy looks on while this repository's crates are compiled for the tests, so that their dependencies, most of the work,
# are compiled once and not also checked for a run of clippy by itself.
LINTED := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__

# Doc tests are left out: each would be linked on its own. One test more than there are cores, because the long ones wait
# for leases and terms to end.
test: setup check page client clients ## Everything: lint, then all tests
	@infra/setup/machine --for-tests
	npm run --prefix gateway/web --silent check
	npm run --prefix gateway/web --silent test
	@if command -v cargo-nextest >/dev/null; then \
	  $(LINTED) cargo nextest run --workspace --locked --no-fail-fast --test-threads $$(($$(nproc) + 1)); \
	else \
	  $(LINTED) cargo test --workspace --locked --lib --bins --tests --no-fail-fast; \
	fi

# What is quick to say of what changed since main, or since SINCE; no server is started. See CONTRIBUTING.md.
quick: ## What changed: formatting, structure, clippy, unit tests, documents (SINCE=commit)
	@$(LINTED) infra/loop quick "$(SINCE)"

test-crate: ## All tests of one crate (CRATE=ledger, DB=sqlite or postgres, TEST=part of a name)
	@$(LINTED) infra/loop crate "$(CRATE)" "$(DB)" "$(TEST)"

# One history of a seed is told step by step; RELEASE=1 is some ten times as fast once it is built.
simulate: ## Simulate histories of the ledger's core (SEED=number HISTORIES=2000 RELEASE=1; FAULTS=2000 plants faults); see docs/simulation.md
	CAUDAL_SIMULATE_SEED=$(SEED) CAUDAL_SIMULATE_HISTORIES=$(or $(HISTORIES),2000) CAUDAL_SIMULATE_FAULTS=$(FAULTS) \
	  cargo test $(if $(RELEASE),--release) --locked --package caudal-ledger --lib \
	  $(if $(FAULTS),planted_faults_are_found,whatever_happens_every_history_ends_as_it_must) -- --nocapture

# What breaks a reader is told with the seed and kept in a file.
fuzz: ## Give broken files to everything that reads files of strangers (SECONDS=60 SEED=number TARGET=media type)
	CAUDAL_FUZZ_SECONDS=$(or $(SECONDS),60) CAUDAL_FUZZ_SEED=$(SEED) CAUDAL_FUZZ_TARGET=$(TARGET) \
	  cargo test --locked --package caudal-harness --test fuzz -- --nocapture

setup: ## Install what is missing: redis-server, the offline model, PDFium, buf, cargo-deny, cargo-shear, cargo-nextest
	@infra/setup/machine
	@infra/setup/model
	@infra/setup/pdfium
	@infra/setup/tools

# With --workspace the dependencies get the features that the tests use too, so that both share one build.
build: ## Build the caudal binary (dev profile)
	cargo build --locked --workspace --bin caudal

# Built anew only when its sources changed.
page: gateway/web/dist/index.html ## Build the web page

# The TypeScript client as it is published; the page builds from its sources.
client: proto/sdk/typescript/dist/index.js

proto/sdk/typescript/dist/index.js: proto/sdk/typescript/package-lock.json $(shell git ls-files proto/sdk/typescript/src 2>/dev/null)
	npm ci --prefix proto/sdk/typescript --no-audit --no-fund --loglevel error
	npm run --prefix proto/sdk/typescript --silent build

# Beside `make test`: what these install is large, and what they find changes with versions of others only.
test-clients: export CAUDAL_REQUIRE_CLIENTS = 1
test-clients: setup infra/clients/stores/node_modules/.package-lock.json infra/clients/python-stores/.installed ## Tools and stores of others: aws, s3cmd, rclone, moto, s3rver
	@infra/setup/machine --for-clients
	cargo nextest run --locked --package caudal --test system foreign::

test-large: ## A file of 6 GiB, sparse here and in the store; takes minutes
	cargo nextest run --locked --profile soak --package caudal --test system --run-ignored only a_file_of_six_gib

infra/clients/stores/node_modules/.package-lock.json: infra/clients/stores/package-lock.json
	npm ci --prefix infra/clients/stores --no-audit --no-fund --loglevel error

infra/clients/python-stores/.installed: infra/clients/requirements-stores.txt
	rm -rf infra/clients/python-stores
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --target infra/clients/python-stores --requirement infra/clients/requirements-stores.txt
	touch $@

# Clients of others, at pinned versions, which the tests send files and read results with.
clients: infra/clients/node_modules/.package-lock.json infra/clients/python/.installed

infra/clients/node_modules/.package-lock.json: infra/clients/package-lock.json
	npm ci --prefix infra/clients --no-audit --no-fund --loglevel error

infra/clients/python/.installed: infra/clients/requirements.txt
	rm -rf infra/clients/python
	python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --target infra/clients/python --requirement infra/clients/requirements.txt
	touch $@

gateway/web/dist/index.html: gateway/web/node_modules/.package-lock.json $(shell git ls-files gateway/web proto/sdk/typescript proto/sdk/left-out.txt 2>/dev/null)
	npm run --prefix gateway/web --silent build

gateway/web/node_modules/.package-lock.json: gateway/web/package-lock.json
	npm ci --prefix gateway/web --no-audit --no-fund --loglevel error

check:
	cargo fmt --all --check
	buf lint proto
	cargo deny --locked check bans licenses sources
	cargo shear --locked
	python3 -m unittest discover --quiet --start-directory infra/lint --pattern '*_test.py'
	infra/lint/structure.py

lint: check ## Formatting, clippy, protos, dependencies, who may know whom
	cargo clippy --workspace --all-targets --locked -- -D warnings

# In turns with the peer: machines are noisy. Postgres and Node are needed beside what `make setup` brings.
bench: benches/peers/node_modules/.package-lock.json ## Measure the whole system beside a BullMQ pipeline on the same store (release build; BENCH=options)
	cargo build --release --locked --bin caudal --bin bench-ledger
	python3 benches/compare $(BENCH)

bench-ingest: ## Measure the whole system alone (release build)
	cargo build --release --locked --bin caudal
	benches/ingest

bench-ledger: ## Measure the ledger through the real mesh, beside a raw-SQL loop (release build; BENCH_LEDGER=options)
	cargo build --release --locked -p caudal -p caudal-bench-ledger --bins
	target/release/bench-ledger $(BENCH_LEDGER)

bench-fairness: setup ## Measure who waits for whom and what limits hold, through the real mesh (release build; BENCH_FAIRNESS=options)
	cargo build --release --locked -p caudal -p caudal-bench-ledger --bins
	target/release/bench-fairness $(BENCH_FAIRNESS)

bench-uploads: benches/peers/node_modules/.package-lock.json ## Measure ways to send files beside @tus/server and the raw disk (release build; BENCH_UPLOADS=options)
	cargo build --release --locked -p caudal -p caudal-bench-uploads --bins
	target/release/bench-uploads $(BENCH_UPLOADS)

bench-embeddings: setup ## Measure the local embedding model beside candle (release build; BENCH_EMBEDDINGS=options)
	cargo run --release --locked --manifest-path benches/embeddings/Cargo.toml -- $(BENCH_EMBEDDINGS)

benches/peers/node_modules/.package-lock.json: benches/peers/package-lock.json
	npm ci --prefix benches/peers --no-audit --no-fund --loglevel error

fmt: ## Format the Rust code
	cargo fmt --all

clean: ## Delete build output and the demo's data; keep tools, model and the data of make up
	cargo clean
	rm -rf .caudal/demo .caudal/demo.log .caudal/demo.lock infra/tools/node_modules
