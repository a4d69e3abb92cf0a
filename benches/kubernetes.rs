//! Where the hit path of the Kubernetes face stands, beside a bare tonic echo of the same message sizes.
//!
//! ```console
//! $ cargo bench --bench kubernetes                        # seven rounds of a second each
//! $ cargo bench --bench kubernetes -- --rounds 3 --deks 100000
//! ```
//!
//! Both servers are processes of their own behind a unix socket; one client measures them in turns, so that what the
//! machine does meanwhile hits both alike. The echo is tonic without its router: it decodes the request, answers 32
//! constant bytes, and looks nothing up. Every plaintext of kmsproxy is compared with what was encrypted.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "kubernetes/echo.rs"]
mod echo;
#[path = "kubernetes/load.rs"]
mod load;
#[path = "kubernetes/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use load::{Deks, Target};

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
    let dir = tempfile::tempdir().unwrap();
    let (_daemon, provider) = daemon(dir.path());
    let (_echo, echo) = echo_server(dir.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(compare(&provider, &echo, usize::try_from(rounds).unwrap(), deks, span));
}

async fn compare(provider: &Path, echo: &Path, rounds: usize, deks: u64, span: Duration) {
    println!("encrypting {deks} DEKs and reading each once");
    let real = Target { name: "kmsproxy", socket: provider.to_owned(), deks: Deks::encrypt(provider, deks).await };
    let bare = Target { name: "tonic echo", socket: echo.to_owned(), deks: real.deks.echoed() };
    let mut table = Table::default();
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        // In turns, and not always the same one first.
        let order = if round % 2 == 0 { [&real, &bare] } else { [&bare, &real] };
        for target in order {
            let alone = load::closed(target, 1, 1, span).await;
            let crowd = load::closed(target, 4, 16, span).await;
            table.add(target.name, "one call at a time, p50 µs", alone.percentile(0.50));
            table.add(target.name, "64 at a time, calls/s", crowd.per_second());
        }
        let half =
            table.last("tonic echo", "64 at a time, calls/s").min(table.last("kmsproxy", "64 at a time, calls/s"))
                / 2.0;
        for target in order {
            let open = load::open(target, 4, half, span).await;
            table.add(target.name, "open loop at half load, p99 µs", open.percentile(0.99));
        }
    }
    table.print();
}

/// Measures by case and target, in the order of the rounds.
#[derive(Default)]
struct Table(Vec<(&'static str, &'static str, Vec<f64>)>);

impl Table {
    fn add(&mut self, target: &'static str, case: &'static str, value: f64) {
        match self.0.iter_mut().find(|(other, same, _)| (*other, *same) == (target, case)) {
            Some((.., values)) => values.push(value),
            None => self.0.push((target, case, vec![value])),
        }
    }

    fn values(&self, target: &str, case: &str) -> &[f64] {
        self.0.iter().find(|(other, same, _)| (*other, *same) == (target, case)).map_or(&[], |(.., values)| values)
    }

    fn last(&self, target: &str, case: &str) -> f64 {
        self.values(target, case).last().copied().unwrap_or(f64::NAN)
    }

    fn print(&self) {
        println!(
            "\n{:32} {:>12} {:>12} {:>8}   least to most",
            "median of the rounds", "kmsproxy", "tonic echo", "ratio"
        );
        let cases = ["64 at a time, calls/s", "one call at a time, p50 µs", "open loop at half load, p99 µs"];
        for case in cases {
            let (real, bare) = (self.values("kmsproxy", case), self.values("tonic echo", case));
            let mut ratios: Vec<f64> = real.iter().zip(bare).map(|(real, bare)| real / bare).collect();
            ratios.sort_by(f64::total_cmp);
            let (real, bare) = (median(real), median(bare));
            println!(
                "{case:32} {real:12.1} {bare:12.1} {:8.2}   {:.2} to {:.2}",
                ratios[ratios.len() / 2],
                ratios[0],
                ratios[ratios.len() - 1]
            );
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Ends its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The daemon in front of the embedded KMS, as it is shipped but for its log.
fn daemon(dir: &Path) -> (Running, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmsproxy"))
        .args(["dev", "--json", "--listen", "127.0.0.1:0", "--log", "warn", "--state-dir"])
        .arg(dir.join("state"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    (Running(child), ready["kubernetes_socket"].as_str().unwrap().into())
}

fn echo_server(dir: &Path) -> (Running, PathBuf) {
    let socket = dir.join("echo.sock");
    let child = Command::new(std::env::current_exe().unwrap()).arg("--echo").arg(&socket).spawn().unwrap();
    let running = Running(child);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (running, socket)
}
