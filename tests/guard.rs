//! What the kernel and `/proc` say of guarded memory and of freed heap.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::process::Command;

use kmsproxy::guard::{self, Backend, Config, Guarded, Weak};
use rustix::process::{DumpableBehavior, Resource, Rlimit, dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

/// Pairs of words, the second computed from the first, so that they can be searched for without being held anywhere.
/// Each test has its own salt, because tests of one process see each other's memory.
#[derive(Clone, Copy)]
struct Plant {
    salt: u64,
}

impl Plant {
    fn second(self, first: u64) -> u64 {
        (first ^ self.salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ 0xD1B5_4A32_D192_ED03
    }

    fn first(self, index: u64) -> u64 {
        self.second(index.wrapping_add(self.salt).rotate_right(17))
    }

    /// Fills `words`, an even number of them, in place.
    fn sow(self, index: u64, words: &mut [u64]) {
        for (n, pair) in words.chunks_exact_mut(2).enumerate() {
            pair[0] = self.first(index << 16 | n as u64);
            pair[1] = self.second(pair[0]);
        }
    }

    /// Pairs in all the writable memory of this process that can be read, but for the scanner's own buffer.
    fn harvest(self) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut buffer = vec![0_u8; 64 * 1024];
        let own = buffer.as_ptr_range();
        let own = own.start as u64..own.end as u64;
        let mut found = 0;
        for (start, end) in writable_maps() {
            let mut at = start;
            while at + 16 <= end {
                let length = buffer.len().min(usize::try_from(end - at).unwrap());
                if memory.read_exact_at(&mut buffer[..length], at).is_err() {
                    at += 4096;
                    continue;
                }
                let words: Vec<u64> =
                    buffer[..length].chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
                let hits = words.windows(2).zip((at..).step_by(8)).filter(|(pair, address)| {
                    !own.contains(address) && pair[0] != 0 && pair[1] == self.second(pair[0])
                });
                found += hits.count();
                at += length as u64 - 8;
            }
        }
        found
    }
}

fn writable_maps() -> Vec<(u64, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let writable = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw")));
    writable
        .map(|line| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap())
        })
        .collect()
}

/// Runs the test named `name` of this file again, alone and in a process of its own, where [`is_child`] is true.
fn in_a_process_of_its_own(name: &str) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// Says so if the kernel has no `memfd_secret`; where nothing may be skipped, that is a failure.
fn without_memfd_secret(test: &str) -> bool {
    if guard::backend() == Backend::MemfdSecret {
        return false;
    }
    eprintln!("SKIPPED: {test}: no memfd_secret(2) here, guarded memory is {}", guard::backend().label());
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
    true
}

#[test]
fn freed_heap_is_wiped() {
    const NAME: &str = "freed_heap_is_wiped";
    // Alone, so that a stock allocator would not have the blocks overwritten by other tests.
    if !is_child(NAME) {
        return in_a_process_of_its_own(NAME);
    }
    let plant = Plant { salt: 0x6865_6170 };
    let mut blocks: Vec<Box<[u64]>> = (0..1000).map(|_| vec![0; 4].into_boxed_slice()).collect();
    for (index, block) in (0..).zip(&mut blocks) {
        plant.sow(index, block);
    }
    assert!(plant.harvest() >= 2000, "the scanner finds what is there");
    drop(black_box(blocks));
    assert_eq!(plant.harvest(), 0);
}

#[test]
fn making_a_guarded_value_leaves_no_copy_of_it() {
    if without_memfd_secret("making_a_guarded_value_leaves_no_copy_of_it") {
        return;
    }
    let plant = Plant { salt: 0x0073_7461_636b };
    let guarded = Guarded::with(|| {
        let mut words = [0; 128];
        plant.sow(1, &mut words);
        assert!(plant.harvest() >= 64, "the scanner finds what is there");
        words
    })
    .unwrap();
    assert_eq!(plant.harvest(), 0);
    assert_eq!(guarded[1], plant.second(guarded[0]));
}

#[test]
fn an_expanded_key_is_nowhere_but_in_guarded_memory() {
    use aes_gcm::{Aes256Gcm, KeyInit};
    if without_memfd_secret("an_expanded_key_is_nowhere_but_in_guarded_memory") {
        return;
    }
    let plant = Plant { salt: 0x006b_6579 };
    let guarded = Guarded::with(|| {
        let mut words = [0; 4];
        plant.sow(1, &mut words);
        let mut raw = zeroize::Zeroizing::new([0; 32]);
        for (bytes, word) in raw.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Aes256Gcm::new((&*raw).into())
    })
    .unwrap();
    assert_eq!(plant.harvest(), 0);
    drop(guarded);
}

#[test]
fn no_other_way_than_the_reference_reads_a_guarded_value() {
    if without_memfd_secret("no_other_way_than_the_reference_reads_a_guarded_value") {
        return;
    }
    let guarded = Guarded::with(|| [7_u8; 32]).unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let why = memory.read_exact_at(&mut [0; 32], guarded.as_ptr() as u64).unwrap_err();
    assert_eq!(why.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert_eq!(*guarded, [7; 32]);
}

#[test]
fn the_kernel_counts_the_arena_as_locked_not_dumped_and_not_inherited() {
    let guarded = Guarded::with(|| 7_u8).unwrap();
    let flags = flags_at(&raw const *guarded as u64);
    let locked = guard::backend() != Backend::Unlocked;
    assert_eq!(["lo", "dd", "dc"].map(|flag| flags.iter().any(|have| have == flag)), [locked, true, true], "{flags:?}");
}

/// `VmFlags` of the mapping that holds `address`, and that the pages beside it may not even be read.
fn flags_at(address: u64) -> Vec<String> {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here = false;
    let mut neighbours = (String::new(), String::new());
    let mut flags = Vec::new();
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let range = u64::from_str_radix(start, 16).unwrap()..u64::from_str_radix(end, 16).unwrap();
            let rights = line.split(' ').nth(1).unwrap().to_owned();
            if here {
                neighbours.1.clone_from(&rights);
            }
            here = range.contains(&address);
            if !here && flags.is_empty() {
                neighbours.0 = rights;
            }
        } else if here && first == "VmFlags:" {
            flags = line.split_whitespace().skip(1).map(str::to_owned).collect();
        }
    }
    assert_eq!(neighbours, ("---p".to_owned(), "---p".to_owned()), "guard pages on both sides");
    flags
}

#[test]
fn a_hardened_process_dumps_nothing_and_gains_nothing() {
    const NAME: &str = "a_hardened_process_dumps_nothing_and_gains_nothing";
    if !is_child(NAME) {
        return in_a_process_of_its_own(NAME);
    }
    assert!(guard::harden_process().is_empty());
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    assert!(rustix::thread::no_new_privs().unwrap());
    assert_eq!(rustix::process::getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    assert!(guard::harden_process().is_empty(), "what systemd has done already is no failure");
}

#[test]
fn a_low_limit_shrinks_the_arena_and_keeps_it_locked() {
    const NAME: &str = "a_low_limit_shrinks_the_arena_and_keeps_it_locked";
    if !is_child(NAME) {
        return in_a_process_of_its_own(NAME);
    }
    limit_locked_memory(100 * 1024);
    assert!(guard::backend() >= Backend::Locked);
    assert_eq!(guard::capacity(), 64);
    let held: Vec<_> = (0..64).map(|n| Guarded::with(|| n).unwrap()).collect();
    assert_eq!((guard::in_use(), Guarded::with(|| 64).err()), (64, Some(guard::Full)));
    drop(held);
    assert_eq!(guard::in_use(), 0);
}

#[test]
fn where_nothing_may_be_locked_that_is_said_and_can_be_refused() {
    const NAME: &str = "where_nothing_may_be_locked_that_is_said_and_can_be_refused";
    if !is_child(NAME) {
        return in_a_process_of_its_own(NAME);
    }
    limit_locked_memory(0);
    assert_eq!((guard::backend(), guard::capacity()), (Backend::Unlocked, 2048));
    let weak = Weak { found: Backend::Unlocked, required: Backend::Locked };
    assert_eq!(guard::open(&Config { require: Backend::Locked }), Err(weak));
    assert_eq!(guard::open(&Config::default()), Ok(Backend::Unlocked));
    assert_eq!(Guarded::with(|| 7).map(|guarded| *guarded), Ok(7));
}

/// Before the arena is first used. Root is not bound by the limit unless it gives up `CAP_IPC_LOCK`.
fn limit_locked_memory(bytes: u64) {
    setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum: Some(bytes) }).unwrap();
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
}

const CHILD: &str = "KMSPROXY_TEST_CHILD";
