# Every command of the project. CI calls only these targets. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
API ?= http://localhost:8000
USERS ?= 64
SECONDS ?= 60
RAMP ?= $(USERS)
AUTH ?= 0
SUB ?= alice
SCOPES ?= orders:read orders:write
export PYTHONPATH := src
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One environment for each requirements file; its stamp carries the file's checksum, so it is remade
# when the file changes and only then. Without its interpreter (a Python that was removed) nothing is installed.
stamp = $(1)/.installed-$(2)-$(shell test -x $(1)/bin/python || rm -f $(1)/.installed-*; cksum < $(2).txt | cut -d' ' -f1)
RUN := $(call stamp,.venv,requirements)
DEV := $(call stamp,.venv,requirements-dev)
LOCAL := $(call stamp,.venv-local,requirements-local)
TOOLS := $(call stamp,.venv-tools,requirements-tools)
CHECKOV := $(call stamp,.venv-checkov,requirements-checkov)
MUTATION := $(call stamp,.venv-mutation,requirements-mutation)
# Measured with what the image holds and no more; the baselines' own libraries lie apart.
IMAGE_ENV := $(call stamp,.venv-image,requirements)
LOAD := $(call stamp,.venv-load,requirements-load)
BENCH := $(call stamp,.venv-bench,requirements-bench)
# The one environment of Node.js. Where it is missing nothing is installed, and what needs it says how to get it.
PREFLIGHT := $(if $(shell command -v npm),.venv-preflight/.installed-$(shell cksum < scripts/preflight/package-lock.json | cut -d' ' -f1))

# What keeps $(PYTHON) from making an environment, if anything.
python_fault = $(shell $(PYTHON) -c 'import importlib.util, sys; print( \
  "is " + sys.version.split()[0] + "; Python 3.11 or newer is needed: set PYTHON=..." if sys.version_info < (3, 11) else \
  "" if importlib.util.find_spec("ensurepip") else "lacks the module venv (Debian, Ubuntu: apt-get install python3-venv)")' \
  2>/dev/null || echo "does not start as Python 3.11 or newer: set PYTHON=...")

define install # environment, requirements file without .txt
	$(if $(python_fault),$(error $(PYTHON) $(python_fault)))
	@echo "Installing $(2).txt into $(1) (once; about a minute) ..."
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
	@$(1)/bin/python -m pip install --quiet --no-compile --require-hashes -r $(2).txt
	@rm -f $(1)/.installed-$(2)-[0-9]*; touch $@
endef

$(RUN): requirements.txt
	$(call install,.venv,requirements)
$(DEV): requirements-dev.txt
	$(call install,.venv,requirements-dev)
$(LOCAL): requirements-local.txt
	$(call install,.venv-local,requirements-local)
$(TOOLS): requirements-tools.txt
	$(call install,.venv-tools,requirements-tools)
$(CHECKOV): requirements-checkov.txt
	$(call install,.venv-checkov,requirements-checkov)
$(MUTATION): requirements-mutation.txt
	$(call install,.venv-mutation,requirements-mutation)
$(IMAGE_ENV): requirements.txt
	$(call install,.venv-image,requirements)
$(LOAD): requirements-load.txt
	$(call install,.venv-load,requirements-load)
$(BENCH): requirements-bench.txt
	$(call install,.venv-bench,requirements-bench)
.venv-preflight/.installed-%:
	@echo "Installing scripts/preflight/package-lock.json into .venv-preflight (once) ..."
	@mkdir -p .venv-preflight && cp scripts/preflight/package*.json .venv-preflight
	@cd .venv-preflight && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@rm -f .venv-preflight/.installed-*; touch $@

TEMPLATES = $(shell grep -l '^AWSTemplateFormatVersion' template.yaml */*.yaml)
SAM_TEMPLATES = $(shell grep -l '^Transform:' $(TEMPLATES))
# Of different age: a young region lacks what the old ones have.
REGIONS := us-east-1 eu-central-1 ap-southeast-4 mx-central-1

.PHONY: $(shell grep -oE '^[a-z-]+:' $(MAKEFILE_LIST) | tr -d :)

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(DEV) $(LOCAL) $(TOOLS) $(CHECKOV) $(PREFLIGHT) ## Make every environment now instead of on first use

run: ## The API on http://localhost:8000 over a local AWS emulator, without Docker (PORT=8000; AUTH=1 asks for tokens)
	@$(MAKE) -s -j2 --no-print-directory $(RUN) $(LOCAL)
	@PORT=$(PORT) AUTH=$(AUTH) PYTHONPATH=.:src .venv/bin/python -m localcloud.run

.PHONY: doctor
doctor: ## What this machine and this account have and lack before a first deployment (STAGE=dev RUNTIME=lambda|fargate)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || \
	  { echo "make doctor: $(PYTHON) $(python_fault)" >&2; exit 1; }
	@# The account is looked at with the SDK of .venv; without it the table says so.
	@$(if $(python_fault),,$(MAKE) -s --no-print-directory $(RUN) || true)
	@PORT=$(PORT) $(PYTHON) -m scripts.doctor

.PHONY: audit
audit: $(TOOLS) ## Look up every pinned package for known vulnerabilities; AUDIT=required fails if the database does not answer
	.venv/bin/python scripts/audit.py requirements*.txt

.PHONY: mutation-tests
mutation-tests: $(DEV) $(LOCAL) $(MUTATION) ## Change src in 200 places, one at a time, and report what no test notices (ARGS="--help")
	@.venv-mutation/bin/python -m scripts.mutation $(ARGS)

.PHONY: permission-tests
permission-tests: $(DEV) $(LOCAL) ## Take each permission of the stack away in turn, and print what fails without it
	.venv/bin/python -m pytest -q tests/privileges

mutations:
	@echo "make mutations is now called make permission-tests" >&2
	@$(MAKE) permission-tests

.PHONY: generate
generate: $(DEV) ## Write what follows from the declarations: docs/openapi.json, docs/events/, docs/generated/, policies for Terraform
	@.venv/bin/python -m scripts.generate

.PHONY: openapi diagram
openapi diagram:
	@echo "make $@ is now make generate" >&2
	@$(MAKE) -s --no-print-directory generate

.PHONY: token
token: $(RUN) ## A token for `make run AUTH=1` (SUB=alice SCOPES="orders:read orders:write")
	@PYTHONPATH=.:src .venv/bin/python -m localcloud.issuer --sub "$(SUB)" --scopes "$(SCOPES)"

local: $(RUN) $(LOCAL) $(TOOLS) ## The built image in a container, against the local AWS emulator: make local RUNTIME=lambda|fargate
	@PORT=$(PORT) PYTHONPATH=.:src .venv/bin/python -m localcloud.local "$(RUNTIME)"

test: $(DEV) $(LOCAL) $(PREFLIGHT) ## All tests that need neither Docker nor AWS
	.venv/bin/python -m pytest -m "not cloud and not browser and not install" -n 2 --dist loadgroup $(ARGS)

nginx: ## Install nginx from Debian or Ubuntu: without it `make test` does not try the API behind a proxy
	@command -v nginx >/dev/null || { sudo=$$(command -v sudo || true); $$sudo apt-get update -q >/dev/null && \
	  $$sudo apt-get install -qqy --no-install-recommends nginx-light >/dev/null; }

test-start: $(DEV) ## Bound what `make run` costs in a bare clone, the installation included, and once more
	.venv/bin/python -m pytest -m install tests/docs $(ARGS)

.PHONY: test-browser
CHROMIUM ?= $(shell command -v chromium || command -v google-chrome)
test-browser: $(DEV) $(LOCAL) ## The console and /docs in a headless Chromium; pictures in reports/browser (CHROMIUM=path)
	@test -n "$(CHROMIUM)" || { echo "make test-browser needs Chromium or Chrome: apt-get install chromium, or CHROMIUM=path" >&2; exit 1; }
	CHROMIUM="$(CHROMIUM)" .venv/bin/python -m pytest -m browser -n0 tests/browser $(ARGS)

cloud-up: $(RUN) $(LOCAL) $(TOOLS) ## Both runtimes in containers by `sam deploy`, no account: make cloud-up RUNTIME=lambda|fargate
	@PYTHONPATH=.:src .venv/bin/python -m localcloud.cloud up "$(RUNTIME)"

cloud-down: $(RUN) ## Remove what cloud-up made: containers, images, data
	@PYTHONPATH=.:src .venv/bin/python -m localcloud.cloud down

cloud-status: $(RUN) ## What cloud-up has running
	@PYTHONPATH=.:src .venv/bin/python -m localcloud.cloud status

test-rename: $(DEV) $(LOCAL) $(TOOLS) $(CHECKOV) $(PREFLIGHT) ## Rename a clone of the last commit, and run its make check and make test
	@clone=$$(mktemp -d) && trap 'rm -rf "$$clone"' EXIT && git clone --quiet . "$$clone" && \
	  for environment in .venv .venv-local .venv-tools .venv-checkov $(if $(PREFLIGHT),.venv-preflight); do ln -s "$$(realpath $$environment)" "$$clone/$$environment"; done && cd "$$clone" && touch order.json && \
	  $(MAKE) rename NAME=tickets ENTITY=ticket && $(MAKE) check && $(MAKE) test

test-cloud: $(DEV) $(LOCAL) $(TOOLS) $(LOAD) ## The tests that need a container engine: image, SAM, both runtimes deployed locally
	@docker info >/dev/null 2>&1 || { echo "make test-cloud: no container engine answers; start Docker (docker info)" >&2; exit 1; }
	.venv/bin/python -m pytest -m cloud $(ARGS)

check: $(DEV) $(LOCAL) $(TOOLS) $(CHECKOV) $(PREFLIGHT) ## Format, lint, types, import rules, templates, workflows, Dockerfile
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/cfn-lint --regions $(REGIONS) -t $(TEMPLATES)
	@# And what SAM makes of them; the warnings there are of its own making.
	printf '%s\n' $(SAM_TEMPLATES) | xargs -P 2 -n 1 $(SHELL) -o pipefail -c \
	  '.venv/bin/python -m scripts.templates "$$0" | .venv/bin/cfn-lint --regions $(REGIONS) --ignore-checks W'
	@# Once more by SAM's own rules, each by itself: it does not look into nested templates.
	printf '%s\n' $(SAM_TEMPLATES) | AWS_DEFAULT_REGION=eu-central-1 SAM_CLI_TELEMETRY=0 xargs -P 2 -n 1 .venv-tools/bin/sam validate --lint -t
	.venv/bin/python -m scripts.preflight
	.venv-tools/bin/hadolint Dockerfile
	.venv-checkov/bin/checkov --config-file .checkov.yaml
	.venv/bin/python scripts/audit.py requirements.txt
	.venv-tools/bin/jactionlint --shellcheck=
	.venv-tools/bin/zizmor --offline --quiet .github/workflows

# Delivery (docs/delivery.md). Arguments travel as environment variables, so that no shell reads them.
export STAGE PARAMETERS ARTIFACT OPEN TAG API_URL ACCESS SKIP
# What a variable says that is a word or nothing: make destroy YES=no must not be taken for a yes.
only = $(if $(filter-out $(2),$($(1))),$(error $(1)=$($(1)) means nothing: $(1)=$(2), or leave it out),$($(1)))
DELIVERY := PYTHONPATH=.:src .venv/bin/python -m scripts.delivery
stage = --stage "$${STAGE:-dev}"
.PHONY: bootstrap package deploy deploy-cdn smoke rollback destroy test-aws drift clean-up-previews pipeline-check release-files release-publish

bootstrap: $(DEV) ## Once per stage: roles and stores for the pipeline (STAGE=dev|prod|preview, PARAMETERS as docs/delivery.md shows)
	@$(DELIVERY) bootstrap $(stage) --parameters "$$PARAMETERS"

package: $(DEV) $(TOOLS) ## Build and push the artifact of the sources, unless it is there (FORCE=1 builds all the same)
	@$(DELIVERY) package $(stage) --parameters "$$PARAMETERS" $(if $(call only,FORCE,1),--force)

deploy: $(DEV) $(TOOLS) ## Deploy the sources to a stage: make deploy STAGE=dev (ARTIFACT=key@hash, PARAMETERS="Runtime=fargate")
	@$(DELIVERY) deploy $(stage) --artifact "$$ARTIFACT" --parameters "$$PARAMETERS" $(if $(call only,FORCE,1),--force)

deploy-cdn: $(DEV) ## Deploy the CloudFront distribution of a stage, its web ACL and the console: make deploy-cdn STAGE=dev
	@$(DELIVERY) deploy-cdn $(stage) --parameters "$$PARAMETERS"

smoke: ## Place, read, list and cancel an order at API_URL; SMOKE_TOKEN is the caller's (ACCESS=open|closed)
	@$(PYTHON) -m scripts.smoke "$$API_URL" --access "$${ACCESS:-any}"

rollback: $(DEV) ## Deploy what ran before, with its parameters: make rollback STAGE=dev
	@$(DELIVERY) rollback $(stage)

destroy: $(DEV) ## Delete a stage's stack, keep its data (YES=1 does not ask, DATA=delete: not for prod)
	@$(DELIVERY) destroy $(stage) $(if $(call only,YES,1),--yes) $(if $(call only,DATA,delete),--data)

test-aws: $(DEV) $(TOOLS) ## The first hour on your AWS account with a report, in a stage of its own (YES=1 KEEP=1 CLEAN=1 SKIP="switch")
	@PYTHONPATH=.:src .venv/bin/python -m scripts.first_hour --skip "$$SKIP" $(if $(call only,YES,1),--yes) $(if $(call only,KEEP,1),--keep) $(if $(call only,CLEAN,1),--clean)

drift: $(DEV) ## Fail if anything in a stage is not as its templates say
	@$(DELIVERY) drift $(stage)

clean-up-previews: $(DEV) ## Remove previews of closed pull requests (OPEN="3 14" are the open ones; asked of GitHub in a workflow)
	@$(DELIVERY) clean-up-previews --open "$$OPEN"

# Old names of commands.
edge: renamed = deploy-cdn
sweep: renamed = clean-up-previews
.PHONY: edge sweep
edge sweep:
	@echo "make $@ is now called make $(renamed)" >&2
	@$(MAKE) -s --no-print-directory $(renamed)

pipeline-check: ## Is the repository set up to deploy? Reads its variables: AWS_REGION, AWS_DEV_ROLE, AWS_PROD_ROLE and others
	@$(PYTHON) scripts/pipeline_check.py

release-files: $(TOOLS) ## Archive, bill of materials and checksums of a release: make release-files TAG=v1.2.3
	@$(PYTHON) -m scripts.release files "$$TAG"

release-publish: ## Publish them as a GitHub release (needs gh)
	@$(PYTHON) -m scripts.release publish "$$TAG"

faults: $(DEV) $(LOCAL) ## The fault suite: ROUNDS rounds from SEED (default: one round, a fresh seed)
	SEED=$(SEED) ROUNDS=$(ROUNDS) .venv/bin/python -m pytest tests/faults -q

load: $(LOAD) ## Load on any API, with a report: make load API=http://localhost:8000 USERS=64 SECONDS=60 (TOKEN=...)
	@mkdir -p reports
	.venv-load/bin/locust --locustfile load/locustfile.py --headless --only-summary --host '$(value API)' --users $(USERS) \
	  --spawn-rate $(RAMP) --run-time $(SECONDS)s --html reports/load.html --csv reports/load

cost: $(DEV) ## What both runtimes cost a month, by line item, and where they break even (ARGS="--help")
	@.venv/bin/python -m costs $(ARGS)

rename: $(DEV) ## Make the clone your own: make rename NAME=invoices ENTITY=invoice
	@.venv/bin/python -m scripts.rename "$(NAME)" "$(ENTITY)"

.PHONY: dlq
dlq: $(RUN) ## List the messages in the dead-letter queues and why they failed; redrive, replay (ARGS="--help")
	@.venv/bin/python -m scripts.dlq $(ARGS)

restore: $(RUN) ## Bring back what was in the table: make restore STACK=orders-prod TO=2026-11-22T10:00:00Z ARGS=--yes (or TABLE=)
	@.venv/bin/python -m scripts.restore --stack "$(STACK)" --to "$(TO)" --table "$(TABLE)" $(ARGS)

format: $(DEV) ## Format the code and fix what the linter can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.PHONY: switch
switch: $(RUN) ## Change the runtime under a running API: make switch TO=fargate|lambda (STACK=orders-dev; ARGS=--plan)
	@.venv/bin/python -m scripts.switch "$(TO)" --stack $(or $(STACK),orders-dev) $(ARGS)

lock: $(TOOLS) ## Resolve pyproject.toml into the hashed requirements files (ARGS="--upgrade-package ruff"; needs npm)
	@command -v npm >/dev/null || { echo "make lock needs npm, for scripts/preflight" >&2; exit 1; }
	scripts/lock $(ARGS)

bench: $(IMAGE_ENV) $(BENCH) $(TOOLS) ## Measure us beside the baselines: 15 minutes, or 3 with QUICK=1; PYTHON=python3.13 as in the image
	.venv-image/bin/python -m bench $(if $(QUICK),--quick) $(ARGS)

.PHONY: bench-aws
bench-aws: $(RUN) ## Measure a deployed stack; says first what it costs: make bench-aws STACK=orders-dev (TOKEN=..., YES=1, ARGS="--help")
	@.venv/bin/python -m bench.aws --stack "$(STACK)" $(if $(call only,YES,1),--yes) $(ARGS)

clean: ## Remove the environments and caches (not the local data under .local)
	rm -rf .venv .venv-* .aws-sam .mypy_cache .pytest_cache .ruff_cache .hypothesis
