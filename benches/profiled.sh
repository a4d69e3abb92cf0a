#!/usr/bin/env bash
# A release build that has seen its load: the compiler is told which code a hit runs through, lays that together and out of
# the way what it never meets. Prints where the binary is.
#
#   benches/profiled.sh [words for `cargo build`, such as --offline]
#
# It builds everything twice and loads what it built for half a minute in between, on sockets of its own: a quarter of an hour
# on two processors. Needs rustup's component llvm-tools, which it adds. BUILDER="cargo auditable" has the second build done by
# that, as `systemd/debian/package --profiled` does.
set -euo pipefail
cd "$(dirname "$0")/.."
rustup component add llvm-tools 2>/dev/null
host=$(rustc -vV | sed -n 's/^host: //p')
tools="$(rustc --print sysroot)/lib/rustlib/$host/bin"
dir="$PWD/target/profiled"
rm -rf "$dir/seen"
mkdir -p "$dir/seen"

build() { # build BUILDER SUBDIRECTORY FLAG WORD…; with a target of its own, so that build scripts are left as they are
    local builder="$1" target="$dir/$2" flag="$3"
    shift 3
    # shellcheck disable=SC2086 # a command and its word
    RUSTFLAGS="$flag" $builder build --release --locked --bin kmsproxy --target "$host" --target-dir "$target" "$@" >&2
}

echo "== building what notes where it has been" >&2
build cargo noting "-Cprofile-generate=$dir/seen" "$@"
noting="$dir/noting/$host/release/kmsproxy"

export LLVM_PROFILE_FILE="$dir/seen/%p-%m.profraw"
for load in aliyun-unsigned "aliyun-v1 --audit" aliyun-v3 "aliyun-v1 --over tls" kubernetes-v1 kubernetes-v2; do
    echo "== load: $load" >&2
    # shellcheck disable=SC2086 # a face and its words
    "$noting" bench hit --face $load --closed 64 --duration 4s --deks 1000 spawn >&2
done
unset LLVM_PROFILE_FILE
"$tools/llvm-profdata" merge -o "$dir/seen.profdata" "$dir"/seen/*.profraw

echo "== building by what was seen" >&2
build "${BUILDER:-cargo}" built "-Cprofile-use=$dir/seen.profdata" "$@"
echo "$dir/built/$host/release/kmsproxy"
