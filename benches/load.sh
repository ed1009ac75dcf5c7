#!/usr/bin/env bash
# Requests per second over loopback, bare and protected in alternation; the ratio is the result.
# Needs wrk, which it installs on a Debian machine. Loopback only, and it stops by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-7} seconds=${SECONDS_EACH:-3} connections=${CONNECTIONS:-32}

if ! command -v wrk >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -y -qq wrk >/dev/null
    else
        echo "missing: wrk (on Debian: apt-get install wrk)" >&2
        exit 1
    fi
fi
cargo build --quiet --release --example load_target

lines=$(mktemp)
trap 'kill "$server" 2>/dev/null || true; rm -f "$lines"' EXIT
taskset -c 0 target/release/examples/load_target >"$lines" &
server=$!
until grep -q ^TOKEN "$lines"; do
    kill -0 "$server"
    read -r -t 0.1 <> <(:) || true
done
# shellcheck disable=SC1090
. "$lines"

ask() { # ask URL: requests per second
    taskset -c 1 wrk -t1 -c"$connections" -d"${seconds}s" \
        -H "Authorization: Bearer $TOKEN" \
        -H "baggage: tenant=acme,caracal.hop=2" \
        -H "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" "$1" |
        awk '/Non-2xx/ { bad = 1 } /Requests\/sec/ { rate = $2 } END { print bad ? "refused" : rate }'
}

median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

ask "$BARE" >/dev/null
ask "$PROTECTED" >/dev/null
bare=() protected=()
for _ in $(seq "$rounds"); do
    bare+=("$(ask "$BARE")")
    protected+=("$(ask "$PROTECTED")")
done
b=$(printf '%s\n' "${bare[@]}" | median)
p=$(printf '%s\n' "${protected[@]}" | median)
echo "bare: $b requests/s, protected: $p requests/s, ratio $(awk "BEGIN { printf \"%.3f\", $p / $b }")"
