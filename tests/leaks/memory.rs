//! Every byte of a process that another one can read, as root may, and of its core file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::needles::{Needles, OVERLAP};

/// A copy of a secret.
#[derive(Clone, Debug)]
pub(crate) struct Find {
    pub(crate) planted: u32,
    pub(crate) form: &'static str,
    /// In which mapping of a process; empty for a file.
    pub(crate) map: String,
    pub(crate) at: u64,
    /// What lies before it.
    pub(crate) before: Vec<u8>,
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) bytes: u64,
    pub(crate) finds: Vec<Find>,
    /// Mappings that can be read by nobody, by name.
    pub(crate) closed: Vec<String>,
}

impl Scan {
    /// All that is mapped in a process, which stands still meanwhile; but for what lies at `except`.
    pub(crate) fn of_process(id: u32, except: u64, needles: &Needles) -> Self {
        let _still = Still::stop(id);
        let memory = File::open(format!("/proc/{id}/mem")).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
        let mut scan = Self::default();
        for map in maps.lines().filter_map(Map::read).filter(|map| map.start != except) {
            scan.map(&memory, &map, needles);
        }
        scan
    }

    /// A core file, or any other.
    pub(crate) fn of_file(path: &Path, needles: &Needles) -> Self {
        let length = std::fs::metadata(path).unwrap().len();
        let mut scan = Self::default();
        let mut file = File::open(path).unwrap();
        let mut whole = Vec::new();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len() as u64, length);
        scan.take(&whole, 0, "", needles);
        scan.bytes = length;
        scan
    }

    fn map(&mut self, memory: &File, map: &Map, needles: &Needles) {
        let mut piece = vec![0; PIECE + OVERLAP];
        let mut at = map.start;
        while at < map.end {
            let length = piece.len().min(usize::try_from(map.end - at).unwrap());
            if memory.read_exact_at(&mut piece[..length], at).is_err() {
                self.closed.push(map.name.clone());
                return;
            }
            self.take(&piece[..length], at, &map.name, needles);
            at += PIECE as u64;
        }
        self.bytes += map.end - map.start;
    }

    fn take(&mut self, piece: &[u8], start: u64, map: &str, needles: &Needles) {
        for hit in needles.find(piece) {
            // What lies in the overlap comes again, as the beginning of the next piece.
            if hit.at >= PIECE && piece.len() == PIECE + OVERLAP {
                continue;
            }
            let before = piece[hit.at.saturating_sub(BEFORE)..hit.at].to_vec();
            let at = start + hit.at as u64;
            self.finds.push(Find { planted: hit.planted, form: hit.form, map: map.to_owned(), at, before });
        }
    }

    /// How many different secrets were found.
    pub(crate) fn secrets(&self) -> usize {
        let mut found: Vec<_> = self.finds.iter().map(|find| find.planted).collect();
        found.sort_unstable();
        found.dedup();
        found.len()
    }
}

impl Find {
    /// Whose buffer it is in, as far as what lies before it tells.
    pub(crate) fn owner(&self) -> &'static str {
        let last = |marker: &[u8]| self.before.windows(marker.len()).rposition(|window| window == marker);
        let record = last(b"\x17\x03\x03");
        let head = last(b"HTTP/1.1 ").max(last(b"POST /"));
        match (record, head) {
            (Some(record), Some(head)) if head >= record && head - record < 16 => {
                "TLS record with an HTTP head in clear"
            }
            (Some(record), None) if self.before.len() - record < 64 => "TLS record",
            (_, Some(_)) => "behind an HTTP head",
            _ if last(b"x-acs-").is_some() => "among HTTP headers",
            _ if self.before.ends_with(b"\x0a\x20") => "gRPC message",
            _ => "elsewhere",
        }
    }

    /// The end of what lies before it, readable.
    pub(crate) fn neighbourhood(&self) -> String {
        self.before[self.before.len().saturating_sub(64)..].escape_ascii().to_string()
    }
}

/// A process that is stopped, until this is dropped.
struct Still(u32);

impl Still {
    fn stop(id: u32) -> Self {
        signal(id, "-STOP");
        Self(id)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        signal(self.0, "-CONT");
    }
}

fn signal(id: u32, name: &str) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

struct Map {
    start: u64,
    end: u64,
    name: String,
}

impl Map {
    /// A line of `/proc/PID/maps`, unless the process itself may not read what it says.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        if !words.next()?.starts_with('r') {
            return None;
        }
        // Behind rights come offset, device and inode.
        let name = words.nth(3).unwrap_or("anonymous").to_owned();
        Some(Self { start, end, name })
    }
}

/// Guarded memory, of a process in which others may read it: where it begins, and what is in each slot that is taken.
pub(crate) fn arena(id: u32) -> (u64, Vec<Vec<u8>>) {
    let smaps = std::fs::read_to_string(format!("/proc/{id}/smaps")).unwrap();
    let mut last = None;
    let mut found = None;
    for line in smaps.lines() {
        if let Some(map) = Map::read(line) {
            last = Some(map);
        } else if line.starts_with("VmFlags:") && line.contains(" dc") && line.contains(" dd") {
            found = last.take();
        }
    }
    let Map { start, end, .. } = found.expect("a mapping that is neither dumped nor inherited");
    let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
    File::open(format!("/proc/{id}/mem")).unwrap().read_exact_at(&mut bytes, start).unwrap();
    let taken = bytes.chunks(SLOT).filter(|slot| slot.iter().any(|&byte| byte != 0));
    (start, taken.map(<[u8]>::to_vec).collect())
}

/// Writes the core of a process as gdb does, now; `false` where there is no gdb.
pub(crate) fn core(id: u32, path: &Path) -> bool {
    gdb(id, &[&format!("generate-core-file {}", path.display()), "detach"])
}

/// Has a process end by SIGTERM, and writes its core in the moment in which it would be gone.
pub(crate) fn last_core(id: u32, path: &Path) -> bool {
    let dump = format!("generate-core-file {}", path.display());
    gdb(id, &["handle all nostop noprint pass", "catch syscall exit_group", "signal SIGTERM", &dump, "kill"])
}

fn gdb(id: u32, commands: &[&str]) -> bool {
    let mut gdb = Command::new("gdb");
    // What the core filter leaves out is dumped as well; what the kernel gives nobody cannot be.
    gdb.args(["-nx", "-batch", "-ex", "set use-coredump-filter off", "-ex", "set dump-excluded-mappings on"]);
    gdb.args(["-p", &id.to_string()]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    match gdb.stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("Saved corefile"), "gdb: {said}");
            true
        }
        Err(error) => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI: gdb: {error}");
            eprintln!("SKIPPED: core files: gdb is not there");
            false
        }
    }
}

/// `guard`'s slots.
const SLOT: usize = 1024;
const PIECE: usize = 1 << 20;
const BEFORE: usize = 700;
