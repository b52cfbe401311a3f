# Every target sets up what it needs by itself, in .venv and build/, and says so in a line.
#
#   PYTHON=python3.12   which Python makes .venv (3.11 or later; default: the newest found)
#   PYTHONS='3.14'      which Pythons make pythons tries
#   ARGS='-k close'     passed to pytest, compliance/run.py, bench/run.py or each fuzz harness

USABLE = import sys, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(USABLE)' 2>/dev/null && echo $$python && break; done)

VENV := .venv
BIN := $(VENV)/bin
# Marks of what .venv has: Koko alone, the developer's tools, other servers and frameworks.
INSTALLED := $(VENV)/.installed
EQUIPPED := $(VENV)/.equipped
INTEGRATED := $(VENV)/.integrated
WSTEST := build/wstest/bin/wstest
# The tests of koko.core: its own, and those that reach it through both faces.
ABOUT_CORE := tests/core tests/opening tests/conversation tests/dialing tests/test_dialing.py

.DEFAULT_GOAL := help
.PHONY: help demo test integrations pythons coverage lint format types compliance uvicorn crowd peers bench fuzz \
	house versions walks interrupts sanitize wheel clean

help:
	@echo 'make demo        install Koko and open the chat and echo page'
	@echo 'make test        run the tests, on the native codec (if built) and on the pure one'
	@echo 'make integrations   the tests inside uvicorn, hypercorn, granian, daphne, gunicorn, gevent, werkzeug,'
	@echo '                 with frameworks on them, and behind nginx, haproxy and Caddy, those that are here'
	@echo "make uvicorn     uvicorn's own WebSocket tests, run on Koko's class (a part of integrations)"
	@echo 'make crowd       24,000 connections to uvicorn with Koko, dropped in every way; nothing may be left'
	@echo 'make pythons     the tests of core, faces and conversations on Python 3.12 to 3.15'
	@echo 'make coverage    lines and branches of koko.core, pure codec: 100 % or an error'
	@echo 'make lint        ruff: rules and format; make format repairs what it can'
	@echo 'make types       mypy --strict'
	@echo 'make compliance  Autobahn, both roles, faces and codecs, and in uvicorn; needs a Python 2.7 (ARGS=--quick)'
	@echo 'make peers       compression with the servers, clients and proxies of others: docs/deflate.md'
	@echo 'make bench       figures for speed and memory, beside the peers'
	@echo 'make fuzz        every harness in fuzz/'
	@echo 'make house       draw docs/house.svg from the imports; print figures of the sources'
	@echo 'make versions    write into docs/integrations.md what is installed here'
	@echo 'make walks       what a message, a Close, a ping and a dial call, function by function'
	@echo 'make sanitize    native tests and random operations under ASan and UBSan; needs gcc'
	@echo 'make interrupts  a thousand interrupts of each kind, at random moments, in threads'
	@echo 'make wheel       sdist and wheel in dist/'
	@echo 'make clean       remove what the other targets made'

demo: $(INSTALLED)
	@$(BIN)/koko demo $(ARGS)

# The tests of Koko itself, with other clients and a browser.
test: $(EQUIPPED)
	@$(BIN)/python tests/run.py 'not integration' $(ARGS)

# Koko inside the servers and frameworks of others.
integrations: $(INTEGRATED)
	@$(BIN)/python tests/run.py integration tests/adapters tests/frameworks tests/first_hours $(ARGS)
	@$(MAKE) --no-print-directory uvicorn

# uvicorn's own tests of WebSockets, from its sdist, on Koko's class.
uvicorn: $(INTEGRATED)
	@echo "==> uvicorn's own tests on koko.uvicorn:Protocol"
	@$(BIN)/python compliance/uvicorn_tests.py

crowd: $(INTEGRATED)
	@$(BIN)/python -m tests.adapters.crowd $(ARGS)

# Pythons that are not installed are taken from Debian's unstable suite: as root, with debootstrap.
PYTHONS := 3.12 3.13 3.14 3.15
pythons:
	@.ci/pythons $(PYTHONS)

coverage: $(EQUIPPED)
	@echo '==> coverage of koko.core on the pure codec'
	@KOKO_CODEC=pure $(BIN)/pytest -q --cov --cov-report=term-missing --cov-fail-under=100 $(ABOUT_CORE) $(ARGS)

lint: $(EQUIPPED)
	@echo '==> ruff'
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check .

format: $(EQUIPPED)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(EQUIPPED)
	@echo '==> mypy --strict'
	@$(BIN)/mypy

compliance: $(INTEGRATED) $(WSTEST)
	@echo '==> Autobahn (reports in build/compliance/)'
	@$(BIN)/python compliance/run.py --wstest $(WSTEST) $(ARGS)

# The servers, clients and proxies of others that are installed; the script says how to get the rest.
peers: $(EQUIPPED)
	@echo '==> peers: what others ask and answer of compression'
	@$(BIN)/pip install -qq --disable-pip-version-check tornado uvicorn wsproto hypercorn daphne \
		socketify websocket-client
	@$(BIN)/python compliance/deflate.py $(ARGS)

bench: $(INTEGRATED)
	@echo '==> bench (figures beside the peers, some minutes; ARGS=--quick only to see that it works)'
	@$(BIN)/python bench/run.py $(ARGS)

fuzz: $(EQUIPPED)
	@set -e; for harness in fuzz/[!_]*.py; do \
		echo "==> $$harness"; $(BIN)/python $$harness $(ARGS); done

house: $(EQUIPPED)
	@$(BIN)/python -m house.picture
	@$(BIN)/python -m house.figures $(ARGS)

versions: $(INTEGRATED)
	@$(BIN)/python -m house.integrations

walks: $(EQUIPPED)
	@$(BIN)/python -m house.walks

sanitize: $(EQUIPPED)
	@PYTHON=$(CURDIR)/$(BIN)/python fuzz/sanitize/run $(ARGS)

interrupts: $(EQUIPPED)
	@$(BIN)/python -m tests.interrupts $(ARGS)

wheel: $(EQUIPPED)
	@echo '==> building into dist/'
	@$(BIN)/python -m build --quiet --outdir dist .
	@ls dist

clean:
	rm -rf $(VENV) build dist src/*.egg-info .coverage htmlcov .hypothesis .*_cache
	rm -f src/koko/*/_native*.c src/koko/*/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo 'Koko needs Python 3.11 or later with its venv module' \
		'(Debian: apt-get install python3-venv); name one with make PYTHON=...' >&2; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)

$(INSTALLED): EXTRAS := speed,proxy,cli
$(EQUIPPED): EXTRAS := dev

# An old extension must not outlive sources that no longer compile. Where everything must
# run, pip is to fail with the compiler's own words.
$(INSTALLED) $(EQUIPPED): pyproject.toml setup.py $(wildcard src/koko/*/*.p[yx][xd]) | $(BIN)/python
	@echo "==> installing koko[$(EXTRAS)] into $(VENV) (the first time takes a minute)"
	@rm -f src/koko/*/_native*.so
	@KOKO_CODEC=$(if $(KOKO_REQUIRE_ALL),native) \
		$(BIN)/pip install -qq --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@ls src/koko/core/_native*.so >/dev/null 2>&1 \
		|| echo '==> no native codec could be built (no C compiler?): Koko runs on the pure one'
	@touch $(INSTALLED) $@

# The extensions are there already: no codec is built for the sake of a few more packages.
$(INTEGRATED): $(EQUIPPED)
	@echo '==> installing uvicorn, hypercorn, gunicorn, uWSGI, Flask, FastAPI and what else Koko is tested inside'
	@KOKO_CODEC=pure $(BIN)/pip install -qq --disable-pip-version-check \
		--editable '.[integrations]'
	@touch $@

$(WSTEST): compliance/install-wstest | $(BIN)/python
	@compliance/install-wstest $(BIN)/python build/wstest
	@touch $@
