# make        train SETR on ToyTown and build the book, from nothing but Python 3.11 and make
# make test   what every change has to pass; CI runs make test-long, too
# make help   the rest

PYTHON ?= python3
TORCH_INDEX ?=
TRAIN_ARGS ?=

BIN := .venv/bin
DONE := .make
TOWN := toytown
RUN := runs/toytown_pup
PYTEST := $(BIN)/python -m pytest -q
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# tests of processes, signals and servers wait for a fifth of their time: three share two cores
THREE := -n 3 --dist loadfile --no-loadscope-reorder
PAGE_TESTS := tests/book/test_site.py tests/book/test_browser.py
PAIR := -n 2 --dist loadgroup
ONE_THREAD := OMP_NUM_THREADS=1
# these take three quarters of the notebooks' seconds
LONG := $(patsubst %,book/%.ipynb,03_position 06_pup 07_mla 07b_alive 08_auxiliary \
          09b_your_pictures 10_measuring 10b_protocols 11_five_minutes 12_weight_conversion \
          13_ade20k 14_cityscapes 16_scaling_out 18_inside 21_after_setr)
NBVAL := $(ONE_THREAD) $(PYTEST) --nbval --nbval-current-env \
         --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 \
         $(TWO) -W 'ignore::ResourceWarning'
BUILD := $(BIN)/jupyter-book build . -n --keep-going

# What the pages are made of: notebooks with their committed outputs, and the source they include.
PAGES := _config.yml _toc.yml $(wildcard book/*.ipynb book/*.md book/*.bib book/_ext/*.py) \
         $(wildcard book/_web/static/*.* book/exercises/*.yml) \
         $(shell find setr_lite book/figures -type f -not -name '*.pyc')

# A Python that may not keep what it has compiled compiles PyTorch again in every process: with it
# the first optimiser is there after 5 seconds, without after 14.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all setup book train test test-cheap test-style test-smoke test-build test-long test-book \
        test-faults test-input test-mutants test-versions test-links test-audit bench-gpu notebooks \
        clean help changed
.SHELLFLAGS := -eu -c

# Announce a step, with the seconds since make began.
BEGAN := $(shell date +%s)
say = @printf '\n== %s (%s s)\n' '$(1)' "$$(( $$(date +%s) - $(BEGAN) ))"

all: train book
	@printf '\nmIoU on the held-out streets: '
	@$(BIN)/python -c 'import json; print("%.3f" % json.load(open("$(RUN)/eval.json"))["miou"])'
	@echo 'their pictures: $(CURDIR)/$(RUN)/pictures'
	@echo 'the book:       $(CURDIR)/_build/html/index.html'

help:
	@echo 'make            set up .venv, train SETR-PUP on ToyTown, build the book'
	@echo 'make setup      only .venv and the browser files'
	@echo 'make train      only the training; TRAIN_ARGS="train.steps=60" changes its settings'
	@echo 'make book       only the book, from the outputs committed in the notebooks'
	@echo 'make test       what every change has to pass'
	@echo 'make test-long  the slow tests, which CI runs after it: every documented command, timed pages'
	@echo 'make test-book  of that, the checks of the built pages, in Chromium where it is installed'
	@echo 'make test-faults  the full fault drill: kills, full disks, dead processes'
	@echo 'make test-input  2,000 cases and more of bad input, of which make test has a part'
	@echo 'make test-mutants  plants 200 mistakes in the library; the tests have to notice; an hour'
	@echo 'make test-versions  the tests with the oldest and the newest packages; half an hour'
	@echo 'make test-links  whether the pages of others that the book links to are still there'
	@echo 'make test-audit  whether a package in constraints.txt has a known security hole'
	@echo 'make bench-gpu  all that needs a GPU, in at most ten minutes, into runs/gpu'
	@echo 'make notebooks  run all notebooks again and write their outputs'
	@echo 'make clean      remove everything that was made, .venv excepted'
	@echo 'PYTHON=python3.12   the Python, 3.11 or later, that makes .venv'
	@echo 'TORCH_INDEX=URL     the wheel index of torch and torchvision (a CPU or CUDA one)'

# --- set-up: once, and again when the requirements change ------------------------------------------

$(DONE)/environment: pyproject.toml constraints.txt
	$(call say,set-up in .venv)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v[:2] < (3, 11) and sys.exit("Python 3.11 or later is needed, $(PYTHON) is %d.%d: make PYTHON=python3.11" % v[:2])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifneq ($(TORCH_INDEX),)
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --no-deps --index-url '$(TORCH_INDEX)' \
	  -c constraints.txt torch torchvision
endif
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install -c constraints.txt -e '.[book,test]'
	@mkdir -p $(DONE) && touch $@

$(DONE)/browser-files: book/_web/vendor.py book/_web/vendor.sha256 | $(DONE)/environment
	$(call say,browser files for the book)
	@$(BIN)/python book/_web/vendor.py
	@touch $@

setup: $(DONE)/environment $(DONE)/browser-files

# --- train: again only when TRAIN_ARGS change, or after make clean ---------------------------------
# (not when the library changes: nobody wants to wait five minutes for an edited comment)

train: $(DONE)/trained

$(DONE)/toytown: | $(DONE)/environment
	$(call say,drawing ToyTown)
	@$(BIN)/setr-lite toytown $(TOWN)
	@touch $@

$(DONE)/train-args: changed | $(DONE)/environment
	@if [ ! -e $@ ]; then echo '$(TRAIN_ARGS)' >$@; \
	elif [ "$$(cat $@)" != '$(TRAIN_ARGS)' ]; then rm -rf $(RUN); echo '$(TRAIN_ARGS)' >$@; fi

# --resume: a training that was interrupted goes on where it was
$(DONE)/trained: $(DONE)/toytown $(DONE)/train-args
	$(call say,training SETR-PUP on ToyTown)
	@$(BIN)/setr-lite train toytown_pup data.root=$(TOWN) train.out=$(RUN) $(TRAIN_ARGS) \
	  $$(test -d $(RUN)/last && echo --resume)
	@grep -q '"finished": true' $(RUN)/last/state.json || { echo 'stopped early: make again goes on'; exit 1; }
	$(call say,scoring it on held-out streets)
	@$(BIN)/setr-lite eval $(RUN)/last --json $(RUN)/eval.json
	$(call say,painting the held-out streets)
	@$(BIN)/setr-lite predict $(RUN)/last $(TOWN)/leftImg8bit/val --out $(RUN)/pictures
	@touch $@

# --- book: the pages show the committed outputs ----------------------------------------------------

book: $(DONE)/book

$(DONE)/book: $(PAGES) $(DONE)/browser-files $(DONE)/environment
	$(call say,building the book)
	@mkdir -p _build
	@$(BUILD) >_build/build.log 2>&1 || { cat _build/build.log; exit 1; }
	@grep 'WARNING:' _build/build.log || true
	@touch $@

# What can only be measured on a GPU; tests/card/rehearse.py tries it out without one.
bench-gpu: $(DONE)/environment
	$(call say,measuring on the GPU)
	@$(BIN)/python tests/benchmarks/gpu.py

notebooks: $(DONE)/environment
	$(call say,running the notebooks)
	@$(BIN)/python book/_tools/execute.py

# --- test: first what is soon told, two at a time, as none of these three can use two cores -------

test: $(DONE)/environment $(DONE)/browser-files
	@$(MAKE) --no-print-directory --output-sync=target -j 2 test-smoke test-build test-style BEGAN=$(BEGAN)
	$(call say,tests)
	@$(ONE_THREAD) $(PYTEST) -m 'not smoke and not slow and not alone' $(THREE) --ignore tests/book/test_site.py \
	  --ignore tests/book/test_browser.py tests
	$(call say,notebooks run again and their outputs compared)
	@$(NBVAL) $(addprefix --ignore ,$(LONG)) book
	$(call say,the built pages)
	@$(PYTEST) -m 'not slow and not alone' $(PAIR) $(PAGE_TESTS)
	$(call say,all is well)

test-cheap: test-style test-smoke

test-style: $(DONE)/environment
	$(call say,ruff)
	@$(BIN)/ruff check .
	$(call say,codespell)
	@$(BIN)/codespell
	$(call say,mypy)
	@$(BIN)/mypy

test-smoke: $(DONE)/environment
	$(call say,smoke tests)
	@$(ONE_THREAD) $(PYTEST) -m smoke tests

test-build: $(DONE)/environment $(DONE)/browser-files
	$(call say,the book with warnings as errors)
	@rm -rf _build && mkdir _build
	@$(BUILD) -W >_build/build.log 2>&1 || { cat _build/build.log; exit 1; }
	@touch $(DONE)/book

# what is slow to ask and seldom answers no: every command and example of the README and of the
# reference, commands and live cells on a card, races and deaths of whole processes, the longest
# notebooks, the largest recipes, each page in the dark, without scripts and by axe, the seconds
# until a page can be used
test-long: $(DONE)/book
	$(call say,slow tests)
	@$(ONE_THREAD) $(PYTEST) -m slow $(TWO) --ignore tests/book/test_site.py \
	  --ignore tests/book/test_browser.py tests
	$(call say,the longest notebooks)
	@$(NBVAL) $(LONG)
	$(call say,whether pages can be read by all)
	@$(PYTEST) -m slow $(PAIR) $(PAGE_TESTS)
	$(call say,how soon pages can be used and how soon they answer)
	@$(PYTEST) -m alone $(PAGE_TESTS) tests/book/test_live.py

test-book: $(DONE)/book
	$(call say,the built pages)
	@$(PYTEST) -m 'not alone' $(PAIR) $(PAGE_TESTS)

test-faults: $(DONE)/environment
	$(call say,the full fault drill)
	@$(ONE_THREAD) DRILL=full $(PYTEST) --timeout 0 -v -s --durations 0 --durations-min 1 tests/faults

# not in `test`: the whole of what it has a part of, other versions, and what needs a network

test-input: $(DONE)/environment
	@$(ONE_THREAD) DRILL=full $(PYTEST) tests/test_bad_input.py

test-mutants: $(DONE)/environment
	@$(ONE_THREAD) $(BIN)/python tests/mutants.py

test-versions: $(DONE)/environment
	@$(BIN)/python tests/versions.py

test-links: $(DONE)/browser-files $(DONE)/environment
	@$(BUILD) --builder linkcheck --path-output _build/links

test-audit: $(DONE)/environment
	@$(BIN)/uv tool run pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf _build $(DONE) $(TOWN) $(RUN) book/_web/static/vendor
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
