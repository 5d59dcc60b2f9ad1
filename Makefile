# libshellflip: build, try, check, test, install. `make` alone lists the targets.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
DESTDIR ?=
CC      ?= cc
CFLAGS  ?= -O2 -g

export PATH := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
C_OUT   := $(TARGET)/c
RUST_OUT := $(TARGET)/rust-http
TOOL    := $(TARGET)/tool
SHARE   := $(PREFIX)/share
WARN    := -std=c11 -Wall -Wextra -Wpedantic -Werror
# Absolute, since the demo and the tests run copies of these programs elsewhere.
LINK     = -L$(RELEASE) -lshellflip -Wl,-rpath,$(abspath $(RELEASE))

C_EXAMPLES := first hello_threads stateful prefork http_v1 http_v2 http_crash http_hang

.PHONY: FORCE help setup build flipctl header examples demo demo-rust check test deep bench install uninstall clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: ## install, or name, what build and tests need
	@tools/setup

build: ## the release library, shared and static
	@tools/setup
	cargo build --release --package libshellflip
	ln -sf libshellflip.so $(RELEASE)/libshellflip.so.$(MAJOR)

flipctl: ## the operator's tool, its manual page and completions, in target/tool
	@tools/setup
	cargo build --profile tool --package flipctl
	$(TOOL)/flipctl manual > $(TOOL)/flipctl.1
	$(TOOL)/flipctl completions bash > $(TOOL)/flipctl.bash
	$(TOOL)/flipctl completions zsh > $(TOOL)/_flipctl
	$(TOOL)/flipctl completions fish > $(TOOL)/flipctl.fish

header: ## write include/shellflip.h anew from the source
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

check: ## format, lints, C warnings, header, README, quick tests: in three minutes
	@tools/setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --workspace --all-targets --features libshellflip/faults -- -D warnings
	for source in examples/c/*.c benches/*.c tests/c/host.c tests/c/asks.c tests/c/sick.c; do $(CC) $(WARN) -Iinclude -fsyntax-only $$source || exit 1; done
	for define in CRASH_IN_INIT HANG_IN_INIT; do \
		$(CC) $(WARN) -Iinclude -fsyntax-only -D$$define examples/c/http_epoll.c || exit 1; done
	awk '/^```c$$/ { on = 1; next } /^```$$/ { on = 0 } on' README.md | cmp - examples/c/first.c
	for readme in README.md bindings/rust/README.md; do \
		awk '/^```rust/ { on = ++n == 1; next } /^```$$/ { on = 0 } on' $$readme | cmp - examples/rust/first.rs || exit 1; done
	python3 tests/run.py --quick

test: examples flipctl ## every test
	@tools/setup --tests
	python3 tests/run.py

deep: examples flipctl ## every test, with the long versions of those that have one, and fuzzing
	@tools/setup --tests
	python3 tests/run.py --deep
	fuzz/run

$(C_OUT)/bench_%: benches/%.c include/shellflip.h | build
	@mkdir -p $(@D)
	$(CC) $(WARN) $(CFLAGS) -Iinclude $< -o $@ $(LINK)

bench: $(C_OUT)/bench_floor $(C_OUT)/bench_upgrade ## how long an upgrade takes, beside the least that a process costs
	python3 benches/run.py $(C_OUT)/bench_floor $(C_OUT)/bench_upgrade

install: build flipctl ## to PREFIX (/usr/local), LIBDIR (PREFIX/lib), under DESTDIR
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/shellflip.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(RELEASE)/libshellflip.so $(DESTDIR)$(LIBDIR)/libshellflip.so.$(VERSION)
	ln -sf libshellflip.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libshellflip.so.$(MAJOR)
	ln -sf libshellflip.so.$(MAJOR) $(DESTDIR)$(LIBDIR)/libshellflip.so
	install -m 644 $(RELEASE)/libshellflip.a $(DESTDIR)$(LIBDIR)/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' shellflip.pc.in \
		> $(DESTDIR)$(LIBDIR)/pkgconfig/shellflip.pc
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/shellflip.pc
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SHARE)/man/man1 $(DESTDIR)$(SHARE)/bash-completion/completions \
		$(DESTDIR)$(SHARE)/zsh/site-functions $(DESTDIR)$(SHARE)/fish/vendor_completions.d
	install -m 755 $(TOOL)/flipctl $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(TOOL)/flipctl.1 $(DESTDIR)$(SHARE)/man/man1/
	install -m 644 $(TOOL)/flipctl.bash $(DESTDIR)$(SHARE)/bash-completion/completions/flipctl
	install -m 644 $(TOOL)/_flipctl $(DESTDIR)$(SHARE)/zsh/site-functions/
	install -m 644 $(TOOL)/flipctl.fish $(DESTDIR)$(SHARE)/fish/vendor_completions.d/

uninstall: ## what install put there
	rm -f $(DESTDIR)$(PREFIX)/include/shellflip.h $(DESTDIR)$(LIBDIR)/libshellflip.a \
		$(DESTDIR)$(LIBDIR)/libshellflip.so $(DESTDIR)$(LIBDIR)/libshellflip.so.$(MAJOR) \
		$(DESTDIR)$(LIBDIR)/libshellflip.so.$(VERSION) $(DESTDIR)$(LIBDIR)/pkgconfig/shellflip.pc \
		$(DESTDIR)$(PREFIX)/bin/flipctl $(DESTDIR)$(SHARE)/man/man1/flipctl.1 \
		$(DESTDIR)$(SHARE)/bash-completion/completions/flipctl $(DESTDIR)$(SHARE)/zsh/site-functions/_flipctl \
		$(DESTDIR)$(SHARE)/fish/vendor_completions.d/flipctl.fish

clean: ## everything that was built
	cargo clean
