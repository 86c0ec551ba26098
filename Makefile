# Every target installs what it needs first (.ci/setup); lanes that need root use sudo where you are not root.
#   make help                 this list, which make without a word shows too
#   make demo [KEEP=1]        a cluster in a box, a shop in it, and a live table of checks
#   make look [ON=] [RUN=]    look around in a demo that was kept: ON=place RUN='command'
#   make clean                takes kept demos down, and what killed labs left
#   make test                 every lane below; each closes with 'N passed, N failed'
#   make lint unit kernel conformance image vm
#   make unit FULL=1          ten times as many examples of each property
#   make conformance FULL=1   every scenario on every backend in every family mode (CONFORMANCE_SEED=number or new)
#   make bench [BENCH=name]   figures against their targets
#   make interop              BGP with BIRD and FRR, with every gobgpd that is here: a table of what works
#   make hitless [GUEST=1]    probes lost to restarts, upgrades, flaps and flushes; with IPVS in a guest if need be
#   make survive [KILLS=200]  the long form of the kill test
#   make sbom                 what the image is made of, under which licences: build/sbom.cdx.json, build/licences.txt
#   make docs                 the documentation as a site, in build/site
#   make setup                only what the others begin with
#   make manifests            daemonset/*.yaml anew from daemonset/kustomize
#   make lock                 pins every dependency with its hashes, after a change of pyproject.toml

PYTHON := $(CURDIR)/.venv/bin/python
# What root writes must not get in the user's way later.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=CI,KEEP,VM_ACCEL,GOBGPD_V4,FULL,CONFORMANCE_SEED env PYTHONDONTWRITEBYTECODE=1)
LANES := lint unit kernel conformance image vm

.PHONY: help setup test $(LANES) demo look bench interop hitless survive docs manifests lock clean sbom

help:
	@sed -n 's/^#   //p' Makefile

test: setup
	@rm -rf build/lanes; status=0; \
	for lane in $(LANES); do $(MAKE) --no-print-directory $$lane || status=1; done; \
	printf '\n== test\n'; for lane in $(LANES); do cat build/lanes/$$lane; done; exit $$status

# Compiled once and by you: not in every process that starts, and not by root, whom it would then belong to.
setup:
	@.ci/setup
	@mkdir -p build/lanes
	@$(PYTHON) -m compileall -qq kuberouter tests || true

lint unit: setup
	@$(PYTHON) -m tests.support.lanes $@

kernel conformance vm: setup
	@$(AS_ROOT) $(PYTHON) -m tests.support.lanes $@

# It has Debian packages of its own to install.
image: setup
	@.ci/setup image
	@$(AS_ROOT) $(PYTHON) -m tests.support.lanes $@

sbom: setup
	@.ci/setup image
	@$(AS_ROOT) $(PYTHON) -m tests.image.sbom

demo: setup
	@KEEP=$(KEEP) $(AS_ROOT) $(PYTHON) -m tests.lab.demo

# ON is a node, a pod as namespace/name, or outside; nothing lists the cluster.
look: setup
	@$(AS_ROOT) $(PYTHON) -m tests.lab.look $(ON) $(RUN)

bench: setup
	@$(AS_ROOT) $(PYTHON) -m tests.bench $(BENCH)

interop: setup
	@$(AS_ROOT) $(PYTHON) -m tests.interop

hitless: setup
	@$(AS_ROOT) $(PYTHON) -m tests.lab.hitless $(if $(GUEST),--guest)

survive: setup
	@$(AS_ROOT) env SURVIVE_KILLS=$(or $(KILLS),200) $(PYTHON) -m pytest -q tests/survive

docs: setup
	@$(PYTHON) -m tests.support.flagpage
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs --quiet build
	@echo build/site/index.html

manifests: setup
	@$(PYTHON) -m tests.support.manifests

lock: setup
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet pip-tools
	@.venv/lock/bin/pip-compile --quiet --extra test --generate-hashes --allow-unsafe --strip-extras --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file requirements.lock \
		pyproject.toml
	@.venv/lock/bin/pip-compile --quiet --constraint requirements.lock --generate-hashes --allow-unsafe --strip-extras \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file image/requirements.lock pyproject.toml

clean: setup
	@$(AS_ROOT) $(PYTHON) -m tests.lab.clean --all
