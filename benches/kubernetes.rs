//! Where the hit path of the Kubernetes face stands, beside a bare tonic echo of the same message sizes.
//!
//! ```console
//! $ cargo bench --bench kubernetes                        # seven rounds of a second for each measure
//! $ cargo bench --bench kubernetes -- --rounds 3 --deks 100000
//! $ cargo bench --bench kubernetes -- --side-by-side      # one provider, while another floods or is refused
//! ```
//!
//! All servers are processes of their own behind unix sockets; one client measures them in turns, so that what the
//! machine does meanwhile hits all alike. The echo is tonic without its router: it decodes the request, answers 32
//! constant bytes, and looks nothing up. Every plaintext of kmsproxy is compared with what was encrypted.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "kubernetes/echo.rs"]
mod echo;
#[path = "kubernetes/line.rs"]
mod line;
#[path = "kubernetes/load.rs"]
mod load;
mod process;
#[path = "kubernetes/processors.rs"]
mod processors;
#[path = "kubernetes/server.rs"]
mod server;
#[path = "kubernetes/side.rs"]
mod side;
#[path = "kubernetes/table.rs"]
mod table;
#[path = "kubernetes/wire.rs"]
mod wire;

use std::path::Path;
use std::time::Duration;

use load::{Ask, Deks, Target};
use processors::Processors;
use server::Server;
use table::Table;

/// As in the binary: the echo is to pay for its frees what the daemon pays.
#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, socket] = &arguments[..]
        && mode == "--echo"
    {
        return echo::serve(Path::new(socket));
    }
    let number = |name: &str, default: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, |value| value.parse().expect("a number"))
    };
    let (rounds, deks) = (number("--rounds", 7), number("--deks", 10_000));
    let span = Duration::from_millis(number("--milliseconds", 1000));
    let (rounds, deks) = (usize::try_from(rounds).unwrap(), usize::try_from(deks).unwrap());
    if arguments.iter().any(|argument| argument == "--side-by-side") {
        return side::by_side(rounds, span);
    }
    let dir = tempfile::tempdir().unwrap();
    let processors = Processors::parted();
    processors.for_servers();
    let (provider, echo) = (server::dev(dir.path()), server::echo(dir.path()));
    processors.for_client();
    compare(&provider, &echo, rounds, deks, span);
}

fn compare(provider: &Server, echo: &Server, rounds: usize, deks: usize, span: Duration) {
    println!("encrypting {deks} DEKs and reading each once");
    let deks = Deks::encrypt(&provider.socket, deks);
    let bare = Target { name: "tonic echo", socket: echo.socket.clone(), deks: deks.echoed() };
    let real = Target { name: "kmsproxy", socket: provider.socket.clone(), deks };
    let mut table = Table::new("kmsproxy", "tonic echo");
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        // In turns, and not always the same one first.
        let both = [(&real, provider), (&bare, echo)];
        let order = if round % 2 == 0 { both } else { [both[1], both[0]] };
        for (target, server) in order {
            let before = server.cpu_micros();
            let crowd = load::closed(target, 4, 16, span);
            table.add(CROWD, target.name, crowd.per_second());
            table.add(
                "64 at a time, server's CPU µs/call",
                target.name,
                (server.cpu_micros() - before) / crowd.count(),
            );
            let (before, alone) = (server.cpu_micros(), load::closed(target, 1, 1, span));
            table.add("one call at a time, p50 µs", target.name, alone.percentile(0.50));
            table.add(
                "one at a time, server's CPU µs/call",
                target.name,
                (server.cpu_micros() - before) / alone.count(),
            );
        }
        let half = table.last(CROWD, bare.name).min(table.last(CROWD, real.name)) / 2.0;
        for (target, _) in order {
            let open = load::open(target, Ask::Hits, half, span);
            table.add("open loop at half load, p50 µs", target.name, open.percentile(0.50));
            table.add("open loop at half load, p99 µs", target.name, open.percentile(0.99));
        }
    }
    table.print();
}

const CROWD: &str = "64 at a time, calls/s";
