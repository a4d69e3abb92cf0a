//! What `--help` says of each scenario below its options.

/// Below the options of `kmsproxy bench`.
pub const BENCH_HELP: &str = "\
Examples:
  kmsproxy bench hit                                    all by itself: starts what it measures
  kmsproxy bench hit --compare spawn bare --closed 64   beside a responder that looks at nothing
  kmsproxy bench restart --face kubernetes-v1 --report restart.html
  kmsproxy bench disable                                the revocation drill

Exit codes:
   0  measured, whatever the figures are
  64  the command line makes no sense, or the target is not on this machine
  65  a plaintext was wrong
  70  nobody answers, or not enough of them

docs/bench.md says what each number means.";

pub(super) const HIT_HELP: &str = "\
What is measured: latency from the scheduled instant (open loop), throughput, the target's CPU for each call and its
memory. Each DEK was read once before, so that all are hits: the KMS is asked by probes only.

Examples:
  kmsproxy bench hit                                       a kmsproxy started for this run, 5,000 calls a second
  kmsproxy bench hit --closed 64 --compare spawn bare      its ceiling, beside a responder that looks at nothing
  kmsproxy bench hit --face kubernetes-v2 unix:/run/kmsproxy/kubernetes.sock --rate 500
  kmsproxy bench hit --compare spawn,deks=1000000 spawn,deks=10000 --closed 64";

pub(super) const STORM_HELP: &str = "\
What is measured: when the last of N waiters has its answer, beyond what the KMS takes for one call, and how many calls
the KMS saw: one, where equal calls share a flight. A bare responder waits for no KMS: beside it is seen what this machine
takes to read and to answer so many at all.

Examples:
  kmsproxy bench storm --waiters 10000 --face kubernetes-v1
  kmsproxy bench storm --waiters 10000 --face aliyun-unsigned --compare spawn bare
  kmsproxy bench storm --compare spawn emulator";

pub(super) const RESTART_HELP: &str = "\
What is measured: seconds until the last apiserver has read everything. A resource is listed one object after the other,
as kube-apiserver does; resources, and apiservers, run beside each other. Three times: with a cold cache, which is what
it costs to ask the KMS for each; with a warm one; and, where the daemon is ours, after it was killed and started again.

Examples:
  kmsproxy bench restart --face kubernetes-v1 --objects 2000 --resources 1
  kmsproxy bench restart --face kubernetes-v2 --shape v2 --seeds 72 --apiservers 3
  kmsproxy bench restart --compare spawn emulator --objects 200";

pub(super) const COLD_HELP: &str = "\
What is measured: how long N distinct DEKs take beside the least that quota and latency allow, what was refused, and
how many remote calls each DEK cost.

Examples:
  kmsproxy bench cold --deks 20000 --kms-quota 1000
  kmsproxy bench cold --deks 20000 --kms-quota none         only the calls under way and the KMS's time set a limit
  kmsproxy bench cold --deks 5000 --quota-untold            the daemon learns the quota from being throttled";

pub(super) const MIXED_HELP: &str = "\
What is measured: latencies of reads and writes together, cold reads among them, and the share of remote calls. The
cache starts empty and fills while it is measured.

Examples:
  kmsproxy bench mixed --rate 1000 --duration 30s
  kmsproxy bench mixed --deks 100000 --writes 0";

pub(super) const IDLE_HELP: &str = "\
What is measured: by how much the target's resident memory grows for each connection: when all are open and each has had
one answer, and again when they have said nothing for --rest. The kernel's part of a connection is not in it.

Examples:
  kmsproxy bench idle --face aliyun-unsigned
  kmsproxy bench idle --over tls --idlers 5000 --compare spawn bare";

pub(super) const CHURN_HELP: &str = "\
What is measured: latencies of a hot set before, during and after a flood of ciphertexts that come once, and how many of
the hot DEKs had to be fetched again. A spawned daemon's cache has room for --capacity entries.

Example:
  kmsproxy bench churn --hot 1000 --capacity 4000 --flood 2000 --duration 20s";

pub(super) const DISABLE_HELP: &str = "\
What is measured: seconds from telling the KMS to disable the key to the last plaintext; with traffic, by the answers;
without, by what the daemon says of its lease, and one question afterwards, which must be refused. The key is enabled
again at the end. Needs a spawned target, or --control (and --admin, for the half without traffic).

Examples:
  kmsproxy bench disable
  kmsproxy bench disable --face kubernetes-v2 --set upstream.kms.lease.probe=5s";

pub(super) const OUTAGE_HELP: &str = "\
What is measured: what hits and cold reads get while the KMS is calm, answers nothing, answers errors, throttles all,
and is back. Needs a spawned target, or --control.

Examples:
  kmsproxy bench outage
  kmsproxy bench outage --each 40s                          longer than the lease: hits end";
