#!/usr/bin/env bash
# The tests of the Go package with one Go, its examples and its recipes. Called by tests/run.py, which reads the output.
# Usage: tests/go.sh GO [PACKAGE-TEST-FLAGS …]: GO is a go command. What this Go is too old for is named.
set -eu
cd "$(dirname "$0")/.."
go=$1
shift
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export PKG_CONFIG_PATH="$target/stage/lib/pkgconfig" CGO_LDFLAGS="-Wl,-rpath,$target/stage/lib"
export SHELLFLIP_GO="$go" FLIPLOAD="$target/debug/flipload"
# Never another toolchain than the one that was asked for.
export GOTOOLCHAIN=local GOFLAGS=-count=1

version=$("$go" env GOVERSION)
echo "with $version ($("$go" env GOROOT))"
(cd bindings/go && "$go" test -v "$@" ./...)
(cd examples/go && "$go" test -v ./...)
for recipe in bindings/go/recipes/*/; do
    name=$(basename "$recipe")
    wants=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$recipe/go.mod")
    oldest=$(printf '%s\n%s\n' "$wants" "${version#go}" | sort -V | head -n 1)
    if [ "$oldest" != "$wants" ]; then
        echo "=== RUN   TestRecipe/$name"
        echo "SKIPPED: recipe_$name: its module needs Go $wants, this is $version"
        echo "--- SKIP: recipe_$name (0.00s)"
        continue
    fi
    (cd "$recipe" && "$go" test -v ./...)
done
