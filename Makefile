# `make` lists the targets.

# Where cargo puts what it builds.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# The user's own cargo-deny, else one below the target directory. A debug build of it takes two minutes, once.
CARGO_DENY := $(or $(shell command -v cargo-deny),$(TARGET_DIR)/tools/bin/cargo-deny)

# What makes requests out of the document of the API, and what stands in for CloudFront, from PyPI, below the target directory.
VERIFY_TOOLS := $(abspath $(TARGET_DIR))/tools/verify-4.32.5-5.2.5-0.0.1a15

# What checks and starts the files of infra/, from PyPI and npm, below the target directory.
INFRA_TOOLS := $(abspath $(TARGET_DIR))/tools/infra-files
# What looks for known mistakes in infra/terraform, from PyPI, below the target directory.
CHECKOV_TOOLS := $(abspath $(TARGET_DIR))/tools/checkov-3.3.30

.DEFAULT_GOAL := help
.PHONY: help dev test soak chaos bench lint fmt verify infra infra-terraform infra-files infra-tools image image-test push deploy

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 17

dev: ## run everything on this machine with real data; ARGS="--fresh" starts over, ARGS="--help" tells more
	@scripts/install-deps $(if $(findstring --edge,$(ARGS)),edge,base)
	@cargo build --release --locked
	@exec $(TARGET_DIR)/release/mainstay dev $(ARGS)

test: ## run all tests against real servers; ARGS="name" picks some
	@scripts/install-deps test
	cargo test --locked $(ARGS)

soak: ## a fleet of processes in trouble for SECONDS=300; SOAK_SEED=… repeats a run
	@scripts/install-deps test
	SOAK_SECONDS=$(or $(SECONDS),300) cargo test --locked --test soak -- --nocapture

chaos: ## a whole site fails at random for SECONDS=300 while viewers read; CHAOS_SEED=… repeats a run
	@scripts/install-deps test
	CHAOS_SECONDS=$(or $(SECONDS),300) cargo test --locked --test chaos -- --nocapture

bench: ## compare with nginx, Varnish, HAProxy, Redis and a bare handler, side by side; ARGS="-- --quick" is a look
	@scripts/install-deps bench
	cargo bench --locked --bench side_by_side $(ARGS)

lint: $(CARGO_DENY) ## check format, code, documentation, licences and sources
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	$(CARGO_DENY) --locked check bans licenses sources

fmt: ## format the code
	cargo fmt

verify: lint test $(VERIFY_TOOLS)/done ## lint, test, and the long checks: answers against /openapi.json, many more cases of every property
	VERIFY_TOOLS=$(VERIFY_TOOLS) cargo test --locked --test verify -- --ignored --nocapture --test-threads 1
	PROPTEST_CASES=20000 cargo test --locked --release

$(VERIFY_TOOLS)/done:
	@scripts/install-deps verify
	python3 -m venv --clear $(VERIFY_TOOLS)
	$(VERIFY_TOOLS)/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5 openapi-spec-validator==0.9.0 'moto[server]==5.2.5' rotel==0.0.1a15
	touch $@

$(TARGET_DIR)/tools/bin/cargo-deny:
	cargo install --locked --debug --quiet --root $(TARGET_DIR)/tools cargo-deny@0.20.2

infra: infra-terraform infra-files ## check all of infra/

infra-terraform: $(CHECKOV_TOOLS)/done ## check infra/terraform: format, validity, tests against a mocked provider, checkov
	CHECKOV=$(CHECKOV_TOOLS)/bin/checkov infra/scripts/check-terraform

infra-files: infra-tools ## check the files of infra/: Dockerfiles, compose, Kubernetes, pipelines, scripts
	INFRA_TOOLS=$(INFRA_TOOLS) infra/scripts/check-files

image: ## build the container image; ARGS=--offline needs no registry of crates, ENVIRONMENT=… is a label and a tag
	@scripts/install-deps containers
	@infra/scripts/image $(ARGS)

image-test: infra-tools ## start the set of infra/compose.yaml, hold it to the README; ARGS="name" picks process tests to run with the image's binary
	@scripts/install-deps containers
	@scripts/install-deps test
	@infra/scripts/stand-ins
	INFRA_TOOLS=$(INFRA_TOOLS) infra/scripts/compose-test
	infra/scripts/process-test $(ARGS)

push: ## push the image IMAGE=… to its registry
	@infra/scripts/push $(IMAGE)

deploy: ## bring IMAGE=… into service, migrations first; OUTPUTS=… is the file of `terraform output -json`
	@infra/scripts/deploy $(IMAGE) $(OUTPUTS)

infra-tools: $(INFRA_TOOLS)/done

$(INFRA_TOOLS)/done: infra/requirements.txt
	@scripts/install-deps infra
	python3 -m venv --clear $(INFRA_TOOLS)
	$(INFRA_TOOLS)/bin/pip install --quiet --disable-pip-version-check --requirement infra/requirements.txt
	npm install --silent --no-audit --no-fund --prefix $(INFRA_TOOLS) npm-groovy-lint@15.2.1 @actions/languageservice@0.3.61
	touch $@

$(CHECKOV_TOOLS)/done:
	@scripts/install-deps verify
	python3 -m venv --clear $(CHECKOV_TOOLS)
	$(CHECKOV_TOOLS)/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
	touch $@
