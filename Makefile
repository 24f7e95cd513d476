# Two commands do everything: `make demo` and `make test`. The rest is for the work in between.
SHELL := /bin/bash
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
CARGO ?= cargo

.PHONY: help build demo test check fmt lint unit bench clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the release binary: target/release/fairway
	@tools/install build
	$(CARGO) build --release --locked -p fairway

demo: build ## a cluster of namespaces comes up, Services answer, what happened is shown (root)
	./target/release/fairway lab demo

test: ## everything CI runs: lints, unit, golden, property, namespaces, the tour (root)
	@tools/install test
	FAIRWAY_REQUIRE_ALL=1 tests/run

check: ## formatting, lints and level rules, without running anything
	tests/check

bench: ## the numbers: Services (PEER=path-to-kube-proxy beside them), policy, a short soak, a lab (root, release build)
	@tools/install build
	$(CARGO) build --release --locked -p fairway -p fairway-bench
	./target/release/fairway-bench services --services 2000 --endpoints 5 $(if $(PEER),--peer $(PEER))
	./target/release/fairway-bench policy --pods 2000 --policies 100 --seconds 20 --rounds 10
	./target/release/fairway-bench soak --services 1000 --endpoints 5 --seconds 20
	$(CARGO) bench --locked -p fairway --bench lab

clean:
	$(CARGO) clean
