#!/usr/bin/env bash
# Everything a change has to pass. Installs what it needs on a Debian machine with a Rust toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_INCREMENTAL=0
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

say() { printf '\n== %s\n' "$*"; }

need() { # need COMMAND DEBIAN_PACKAGE
    command -v "$1" >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        say "installing $2"
        apt-get update -qq
        apt-get install -y -qq "$2"
    else
        echo "missing: $1 (on Debian: apt-get install $2)" >&2
        exit 1
    fi
}

command -v cargo >/dev/null || { echo "missing: a Rust toolchain, 1.88 or newer (https://rustup.rs)" >&2; exit 1; }
need cc build-essential
need cmake cmake
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

say "formatting"
cargo fmt --all --check

say "clippy, all targets and features"
cargo clippy --all-targets --all-features -- -D warnings

features=$(awk '/^\[/ { on = $0 == "[features]" } on && /^[a-z]/ && $1 != "default" { print $1 }' Cargo.toml)
for feature in $features; do
    say "feature $feature alone"
    cargo clippy --lib --no-default-features --features "$feature" -- -D warnings
done
if [ -n "$features" ]; then
    say "no features"
    cargo clippy --lib --no-default-features -- -D warnings
    say "tests, default features"
    cargo test --quiet
fi

say "tests and examples, all features"
cargo build --quiet --examples --all-features
cargo test --all-features

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features --quiet

say "examples"
cargo run --quiet --example quickstart
echo '{"id":1,"kind":"envelope","headers":[["baggage","caracal.hop=3"]]}' \
    | cargo run --quiet --example conformance | grep -q '"hop":3'

if cargo deny --version >/dev/null 2>&1; then
    say "licences, bans and sources"
    cargo deny check licenses bans sources
fi

say "all passed"
