# `make` lists the targets.

# Where cargo puts what it builds.
TARGET_DIR ?= $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help dev test bench lint fmt verify deny

help: ## list these targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

dev: ## run everything on this machine with real data; ARGS="--fresh" starts over
	@scripts/install-deps base
	@cargo build --release --locked
	@exec $(TARGET_DIR)/release/mainstay dev $(ARGS)

test: ## run all tests against real servers; ARGS="name" picks some
	@scripts/install-deps test
	cargo test --locked $(ARGS)

bench: ## compare with nginx, Varnish, HAProxy and a bare handler, side by side
	@scripts/install-deps bench
	cargo bench --locked --bench side_by_side $(ARGS)

lint: ## formatting, clippy, documentation; licences and sources where cargo-deny is installed
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then $(MAKE) --no-print-directory deny; \
	else echo "cargo-deny is not installed: licences and sources are left to \`make verify\`"; fi

fmt: ## format the code
	cargo fmt

verify: ## lint, test, and the long checks: many more cases of every property
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test
	PROPTEST_CASES=20000 cargo test --locked --release

# Advisories are left out, since they need a database from the network.
deny:
	cargo deny --offline check bans licenses sources
