# libshellflip: build, try, check, test, install. `make` alone lists the targets.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
DESTDIR ?=
CC      ?= cc
CFLAGS  ?= -O2 -g
OBJCOPY ?= objcopy

export PATH := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
C_OUT   := $(TARGET)/c
RUST_OUT := $(TARGET)/rust-http
PYTHON  ?= python3
VENV    := $(TARGET)/python
PY_OUT  := $(TARGET)/python-http
TOOL    := $(TARGET)/tool
SHARE   := $(PREFIX)/share
WARN    := -std=c11 -Wall -Wextra -Wpedantic -Werror
# Absolute, since the demo and the tests run copies of these programs elsewhere.
LINK     = -L$(RELEASE) -lshellflip -Wl,-rpath,$(abspath $(RELEASE))

# Programs in other languages find the library here by pkg-config, as they would find an installed one.
STAGE   := $(abspath $(TARGET))/stage
GO      ?= go
GO_OUT  := $(TARGET)/go
GO_ENV   = PKG_CONFIG_PATH=$(STAGE)/lib/pkgconfig CGO_LDFLAGS=-Wl,-rpath,$(STAGE)/lib GOTOOLCHAIN=local

# Root, who installs, need not have the cargo of whoever built it all: then what is there is installed as it is.
INSTALLED := $(RELEASE)/libshellflip.so $(RELEASE)/archive/libshellflip.a \
	$(addprefix $(TOOL)/,flipctl flipctl.1 flipctl.bash _flipctl flipctl.fish)
HAS_CARGO := $(shell PATH='$(PATH)' command -v cargo)
TO_BUILD  := $(if $(HAS_CARGO)$(filter-out $(wildcard $(INSTALLED)),$(INSTALLED)),build flipctl)

C_EXAMPLES := first hello_threads stateful prefork http_v1 http_v2 http_crash http_hang

.PHONY: FORCE help setup library build flipctl header examples demo demo-rust demo-go demo-python wheel python stage
.PHONY: examples-go check check-go test deep bench bench-quick bench-programs bench-go bench-publish
.PHONY: install uninstall clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install, or name, what build and tests need
	@tools/setup

build: library $(RELEASE)/archive/libshellflip.a ## the release library, shared and static

# One after the other: built together with a Rust library, the shared one keeps what only Rust programs could call.
# Frame pointers: what unwinds needs fewer words about a function that has one.
library:
	@tools/setup --build
	cargo rustc --release --package libshellflip --crate-type cdylib -- -C force-frame-pointers=yes
	cargo rustc --release --package libshellflip --crate-type staticlib -- -C force-frame-pointers=yes
	ln -sf libshellflip.so $(RELEASE)/libshellflip.so.$(MAJOR)

flipctl: ## the operator's tool, its manual page and completions, in target/tool
	@tools/setup --build
	cargo build --profile tool --package flipctl
	$(TOOL)/flipctl manual > $(TOOL)/flipctl.1
	$(TOOL)/flipctl completions bash > $(TOOL)/flipctl.bash
	$(TOOL)/flipctl completions zsh > $(TOOL)/_flipctl
	$(TOOL)/flipctl completions fish > $(TOOL)/flipctl.fish

header: ## write include/shellflip.h anew from the source
	@tools/setup --build
	SHELLFLIP_WRITE_HEADER=1 cargo test --quiet --test header

examples: build $(C_EXAMPLES:%=$(C_OUT)/%) ## the C servers, in target/c

$(C_OUT)/http_v1: DEFINES := -DVERSION=1
$(C_OUT)/http_v2: DEFINES := -DVERSION=2
$(C_OUT)/http_crash: DEFINES := -DVERSION=3 -DCRASH_IN_INIT
$(C_OUT)/http_hang: DEFINES := -DVERSION=4 -DHANG_IN_INIT

$(C_OUT)/http_%: examples/c/http_epoll.c examples/c/http_request.h include/shellflip.h | build
	@mkdir -p $(@D)
	$(CC) $(WARN) $(CFLAGS) $(DEFINES) -Iinclude $< -o $@ $(LINK)

$(C_OUT)/%: examples/c/%.c include/shellflip.h | build
	@mkdir -p $(@D)
	$(CC) $(WARN) $(CFLAGS) -pthread -Iinclude $< -o $@ $(LINK)

demo: examples ## replace a loaded HTTP server 20 times, and fail to twice, and count failed requests
	cargo build --release --package testkit --bin flipdemo
	$(RELEASE)/flipdemo --v1 $(C_OUT)/http_v1 --v2 $(C_OUT)/http_v2 --crash $(C_OUT)/http_crash \
		--hang $(C_OUT)/http_hang --upgrades 20 --connections 32

$(RUST_OUT)/%: FORCE
	@mkdir -p $(@D)
	VERSION=$* cargo build --profile demo --package graceflip --example http
	cp $(TARGET)/demo/examples/http $@

demo-rust: $(RUST_OUT)/1 $(RUST_OUT)/2 $(RUST_OUT)/crash $(RUST_OUT)/hang ## the same with the server written in Rust
	cargo build --release --package testkit --bin flipdemo
	$(RELEASE)/flipdemo --v1 $(RUST_OUT)/1 --v2 $(RUST_OUT)/2 --crash $(RUST_OUT)/crash --hang $(RUST_OUT)/hang \
		--upgrades 20 --connections 32

stage: build ## the library as it would be installed, in target/stage
	@$(MAKE) -s install PREFIX=$(STAGE) LIBDIR=$(STAGE)/lib DESTDIR=

examples-go: stage ## the Go servers, in target/go
	@tools/setup
	cd examples/go && for program in first hello http stateful; do for version in 1 2 3 4; do \
		$(GO_ENV) $(GO) build -ldflags "-X main.version=$$version" -o $(abspath $(GO_OUT))/$${program}_v$$version ./$$program \
		|| exit 1; done; done

demo-go: examples-go ## the same for the servers in Go: hello, http and stateful
	cargo build --release --package testkit --bin flipdemo
	for program in "hello --hello --streams 4 --connections 0" "http --connections 32" "stateful --connections 8"; do \
		set -- $$program; name=$$1; shift; echo; echo "$$name:"; \
		$(RELEASE)/flipdemo --v1 $(GO_OUT)/$${name}_v1 --v2 $(GO_OUT)/$${name}_v2 --crash $(GO_OUT)/$${name}_v3 \
			--hang $(GO_OUT)/$${name}_v4 --upgrades 20 "$$@" || exit 1; done

$(VENV)/requirements.txt: bindings/python/tests/requirements.txt bindings/python/recipes/requirements.txt
	@tools/setup
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	cat $^ > $@

wheel: $(VENV)/requirements.txt ## the Python wheel, with the library in it, in target/wheels
	rm -rf $(TARGET)/wheels
	$(VENV)/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(TARGET)/wheels ./bindings/python

python: wheel ## the wheel in an environment of its own, with what its tests need, in target/python
	$(VENV)/bin/pip install --quiet --no-deps --force-reinstall $(TARGET)/wheels/*.whl
	cargo build --release --package testkit --bin flipload

$(PY_OUT)/%.py: examples/python/http.py
	@mkdir -p $(@D)
	sed 's/^VERSION = "1"/VERSION = "$*"/' $< > $@

demo-python: python $(PY_OUT)/1.py $(PY_OUT)/2.py $(PY_OUT)/crash.py $(PY_OUT)/hang.py ## the same with the server written in Python
	cargo build --release --package testkit --bin flipdemo
	$(RELEASE)/flipdemo --server-cmd '$(abspath $(VENV))/bin/python {live} {address}' --v1 $(PY_OUT)/1.py \
		--v2 $(PY_OUT)/2.py --crash $(PY_OUT)/crash.py --hang $(PY_OUT)/hang.py --upgrades 20 --connections 32

check: python ## format, lints, C warnings, header, README, quick tests: in three minutes
	@tools/setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets --features libshellflip/faults -- -D warnings
	for source in examples/c/*.c benches/c/*.c tests/c/host.c tests/c/asks.c tests/c/sick.c tests/c/cancelled.c tests/c/counts.c; do $(CC) $(WARN) -Iinclude -fsyntax-only $$source || exit 1; done
	for define in CRASH_IN_INIT HANG_IN_INIT; do \
		$(CC) $(WARN) -Iinclude -fsyntax-only -D$$define examples/c/http_epoll.c || exit 1; done
	awk '/^```c$$/ { on = 1; next } /^```$$/ { on = 0 } on' README.md | cmp - examples/c/first.c
	for readme in README.md bindings/rust/README.md; do \
		awk '/^```rust/ { on = ++n == 1; next } /^```$$/ { on = 0 } on' $$readme | cmp - examples/rust/first.rs || exit 1; done
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --all-features --package graceflip
	for crate in examples/rust/web benches/peers/rust benches/rust_counting; do \
		cargo fmt --check --manifest-path $$crate/Cargo.toml || exit 1; done
	cargo clippy --package graceflip --all-features --all-targets -- -D warnings
	awk '/^```go$$/ { on = 1; next } /^```$$/ { on = 0 } on' README.md | cmp - examples/go/first/main.go
	$(MAKE) check-go
	awk '/^```python$$/ { on = ++n == 1; next } /^```$$/ { on = 0 } on' README.md | cmp - examples/python/first.py
	$(VENV)/bin/ruff format --check --config bindings/python/pyproject.toml bindings/python examples/python
	$(VENV)/bin/ruff check --config bindings/python/pyproject.toml bindings/python examples/python
	cd bindings/python && $(abspath $(VENV))/bin/mypy && $(abspath $(VENV))/bin/mypy ../../examples/python
	$(VENV)/bin/ruff format --check --config benches/pyproject.toml benches
	$(VENV)/bin/ruff check --config benches/pyproject.toml benches
	cd benches && $(abspath $(VENV))/bin/mypy
	python3 tests/run.py --quick

check-go: stage ## gofmt and go vet
	@tools/setup
	@out=$$(gofmt -l bindings/go examples/go benches); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	for module in bindings/go examples/go benches/go bindings/go/recipes/*/; do \
		(cd $$module && $(GO_ENV) $(GO) vet ./...) || exit 1; done

test: examples examples-go python flipctl ## every test
	@tools/setup --tests
	python3 tests/run.py

deep: examples examples-go python flipctl ## every test, with the long versions of those that have one, fuzzing, and the Rust interface
	@tools/setup --tests
	python3 tests/run.py --deep
	fuzz/run
	tools/rust_interface

# What the benchmark's programs are linked with: nothing but the names, and the path of the library instead of its
# soname. So the loader opens it at once, as it opens an installed one, and does not search along an rpath.
$(C_OUT)/named/libshellflip.so: include/shellflip.h
	@mkdir -p $(@D)
	sed -n 's/^[^ #].*[ *]\(flip_[a-z_]*\)(.*/void \1(void); void \1(void) {}/p' $< | \
		$(CC) -shared -fPIC -Wl,-soname,$(abspath $(RELEASE))/libshellflip.so.$(MAJOR) -x c - -o $@

$(C_OUT)/bench_%: benches/c/%.c $(wildcard benches/c/*.h) include/shellflip.h $(C_OUT)/named/libshellflip.so | build
	@mkdir -p $(@D)
	$(CC) $(WARN) $(CFLAGS) -pthread -Iinclude $< -o $@ $(LINK)

# The same programs without the library, to compare with. bench_nothing needs nothing of it and is linked with it all the same.
$(C_OUT)/bench_%_without: benches/c/%.c
	@mkdir -p $(@D)
	$(CC) $(WARN) $(CFLAGS) -DWITHOUT $< -o $@

BENCH_C := $(patsubst benches/c/%.c,$(C_OUT)/bench_%,$(wildcard benches/c/*.c)) \
	$(C_OUT)/bench_cost_without $(C_OUT)/bench_nothing_without
BENCH_VENV := $(TARGET)/bench-python

$(BENCH_C): LINK := -L$(C_OUT)/named -lshellflip
$(C_OUT)/bench_nothing: LINK := -Wl,--no-as-needed -L$(C_OUT)/named -lshellflip

$(BENCH_VENV)/requirements.txt: benches/requirements.txt
	@tools/setup
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	cp $< $@

BENCH_COUNTING := $(TARGET)/bench-counting/release/counting

$(BENCH_COUNTING): FORCE
	cargo build --release --locked --manifest-path benches/rust_counting/Cargo.toml --target-dir $(TARGET)/bench-counting

bench-go: stage # the Go programs of the benchmark, in target/bench-go
	@tools/setup
	@mkdir -p $(TARGET)/bench-go
	cd benches/go && $(GO_ENV) $(GO) build -o $(abspath $(TARGET))/bench-go/ ./... && \
		$(GO_ENV) $(GO) build -tags shellflip_static -o $(abspath $(TARGET))/bench-go/upgrade_static ./upgrade

bench-programs: $(BENCH_C) $(C_OUT)/http_v1 $(BENCH_COUNTING) $(BENCH_VENV)/requirements.txt bench-go python
	cargo build --release --package testkit --bin flipload --bin control_server
	OUT=$(abspath $(TARGET))/peers GO=$(GO) $(GO_ENV) benches/peers/build

bench: bench-programs ## everything that is measured, beside the peers; takes its time. MEASURES="latency load" for single ones
	$(BENCH_VENV)/bin/python benches/run.py $(MEASURES)

bench-quick: bench-programs ## the same with fewer rounds, in under three minutes
	$(BENCH_VENV)/bin/python benches/run.py --quick $(MEASURES)

bench-publish: # the results of the last run as docs/benchmark, which the README speaks of
	@mkdir -p docs/benchmark
	cp $(TARGET)/bench/results.md docs/benchmark/README.md
	cp $(TARGET)/bench/*.svg docs/benchmark/

# One object whose only visible symbols are the interface's: two archives that were made from Rust have the standard
# library in common, and a program could link only one of them. Section groups are dissolved, since the linker would
# keep only one of two with the same name, although what is in them is local now. The compiler's bitcode goes, too:
# binutils with another LLVM's plugin stumble over it. The unwinder becomes a part of it, where the compiler has it as an
# archive: see build.rs.
UNWINDER = $(filter /%,$(shell $(CC) -print-file-name=libgcc_eh.a))

$(RELEASE)/archive/libshellflip.a: $(RELEASE)/libshellflip.a
	@mkdir -p $(@D) && rm -f $@
	$(LD) -r --force-group-allocation $$(sed -n 's/^[^ #].*[ *]\(flip_[a-z_]*\)(.*/-u \1/p' include/shellflip.h) $< \
		$(UNWINDER) -o $(@D)/shellflip.o
	$(OBJCOPY) --wildcard --keep-global-symbol='flip_*' -R .llvmbc -R .llvmcmd $(@D)/shellflip.o
	$(AR) rcs $@ $(@D)/shellflip.o

# With a recipe, if an empty one: else make -j goes by how old it was before the build.
$(RELEASE)/libshellflip.a: library ;

# The loader finds an installed library in its cache. Only root may write that, and a package does it when it is installed.
LDCONFIG := $(if $(DESTDIR),,$(if $(filter /usr/%,$(LIBDIR)),[ "$$(id -u)" != 0 ] || ldconfig))

install: $(TO_BUILD) ## to PREFIX (/usr/local), LIBDIR (PREFIX/lib), under DESTDIR
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/shellflip.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(RELEASE)/libshellflip.so $(DESTDIR)$(LIBDIR)/libshellflip.so.$(VERSION)
	ln -sf libshellflip.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libshellflip.so.$(MAJOR)
	ln -sf libshellflip.so.$(MAJOR) $(DESTDIR)$(LIBDIR)/libshellflip.so
	install -m 644 $(RELEASE)/archive/libshellflip.a $(DESTDIR)$(LIBDIR)/
	for name in shellflip shellflip-static; do \
		sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' $$name.pc.in \
			> $(DESTDIR)$(LIBDIR)/pkgconfig/$$name.pc && \
		chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/$$name.pc || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SHARE)/man/man1 $(DESTDIR)$(SHARE)/bash-completion/completions \
		$(DESTDIR)$(SHARE)/zsh/site-functions $(DESTDIR)$(SHARE)/fish/vendor_completions.d
	install -m 755 $(TOOL)/flipctl $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(TOOL)/flipctl.1 $(DESTDIR)$(SHARE)/man/man1/
	install -m 644 $(TOOL)/flipctl.bash $(DESTDIR)$(SHARE)/bash-completion/completions/flipctl
	install -m 644 $(TOOL)/_flipctl $(DESTDIR)$(SHARE)/zsh/site-functions/
	install -m 644 $(TOOL)/flipctl.fish $(DESTDIR)$(SHARE)/fish/vendor_completions.d/
	$(LDCONFIG)

uninstall: ## what install put there
	rm -f $(DESTDIR)$(PREFIX)/include/shellflip.h $(DESTDIR)$(LIBDIR)/libshellflip.a \
		$(DESTDIR)$(LIBDIR)/libshellflip.so $(DESTDIR)$(LIBDIR)/libshellflip.so.$(MAJOR) \
		$(DESTDIR)$(LIBDIR)/libshellflip.so.$(VERSION) $(DESTDIR)$(LIBDIR)/pkgconfig/shellflip.pc \
		$(DESTDIR)$(LIBDIR)/pkgconfig/shellflip-static.pc \
		$(DESTDIR)$(PREFIX)/bin/flipctl $(DESTDIR)$(SHARE)/man/man1/flipctl.1 \
		$(DESTDIR)$(SHARE)/bash-completion/completions/flipctl $(DESTDIR)$(SHARE)/zsh/site-functions/_flipctl \
		$(DESTDIR)$(SHARE)/fish/vendor_completions.d/flipctl.fish
	$(LDCONFIG)

clean: ## everything that was built
	cargo clean
