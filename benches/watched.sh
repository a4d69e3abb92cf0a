#!/usr/bin/env bash
# What it costs the data path to be watched: two daemons, the same load in turns, and one of the two is scraped, has its
# status page polled and is looked at by `kmsproxy top`, each once a second. Prints the ratio of the watched to the other.
#
#   benches/watched.sh KMSPROXY [words for `kmsproxy bench hit`, such as --rounds 15]
set -euo pipefail
kmsproxy=$(realpath "${1:?which kmsproxy}")
shift
dir=$(mktemp -d)
started=()
finish() {
    for id in "${started[@]}"; do kill "$id" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

for side in watched alone; do
    "$kmsproxy" dev --state-dir "$dir/$side" --listen 127.0.0.1:0 --json >"$dir/$side.json" 2>"$dir/$side.log" &
    started+=($!)
done
for side in watched alone; do
    for _ in $(seq 100); do [ -s "$dir/$side.json" ] && break; sleep 0.1; done
done
metrics=$(sed 's/.*"metrics_address":"\([^"]*\)".*/\1/' "$dir/watched.json")

# One process for each, for an hour at most: to start another every second would cost the two cores more than what it asks.
for path in metrics live; do
    curl --silent --output /dev/null --rate 60/m "http://$metrics/$path?[1-3600]" &
    started+=($!)
done
# A terminal that is held open: its standard input never ends.
sleep 3600 | script --quiet --flush --command "stty rows 40 cols 120; exec '$kmsproxy' top --socket '$dir/watched/admin.sock'" /dev/null >"$dir/top.out" &
started+=($!)
started+=($(jobs -p | tail -1))

# What the threads beside the data path, on which all of this is answered, have had of a processor, in hundredths of a second.
ticks() { cat /proc/"${started[0]}"/task/*/stat 2>/dev/null | awk '/\((admin|tokio-.*)\)/ { sum += $14 + $15 } END { print sum + 0 }'; }

sleep 2
before=$(ticks) began=$SECONDS
"$kmsproxy" bench hit --face kubernetes-v2 --compare "unix:$dir/watched/kms.sock" "unix:$dir/alone/kms.sock" "$@"
seconds=$((SECONDS - began))
awk -v ticks="$(($(ticks) - before))" -v seconds="$seconds" 'BEGIN {
    printf "the threads that answered all this had %.1f ms of processor time a second, over %d s\n", ticks * 10 / seconds, seconds
}'
echo "top wrote $(stat -c %s "$dir/top.out") bytes to its terminal meanwhile"
