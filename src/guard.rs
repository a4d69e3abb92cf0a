//! Memory that is locked, left out of dumps and, where the kernel can, invisible to every other process.
//!
//! One arena of fixed slots for the whole process, mapped at first use. What is promised: nothing in a [`Guarded`] is
//! found in swap, in a core dump, in a hibernation image or in a forked child, nor read by another process through
//! `/proc/PID/mem` or `process_vm_readv` (the last two with [`Backend::MemfdSecret`] only). What is not promised:
//! root can make this very process write the bytes out.
#![allow(unsafe_code, reason = "mapping memory and owning values in it; the only unsafe code of the crate")]

use std::fmt;
use std::io;
use std::iter::successors;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

mod stack;

#[cfg(test)]
pub use stack::tests::{depth, left};
pub use stack::{STACK_BYTES, without_trace};

/// Owns one `T` that lives in the arena and nowhere else; dropped in place, and the slot wiped, when this is dropped.
///
/// `T` must fit a slot (1 KiB, alignment 64), which is checked when compiling. It must keep what is secret in itself:
/// a `Vec` in a slot still has its bytes on the heap. There is no way to move the value out again.
pub struct Guarded<T> {
    value: NonNull<T>,
    // Declared after `value` and with its own `Drop`, so that the wipe happens even if `T`'s destructor panics.
    slot: Slot,
    owns: PhantomData<T>,
}

impl<T> Guarded<T> {
    /// Moves `value` into a slot. The caller's own copy of the bytes may stay on its stack: prefer [`Guarded::with`].
    ///
    /// # Errors
    /// [`Full`] if no slot is free.
    pub fn new(value: T) -> Result<Self, Full> {
        Self::with(|| value)
    }

    /// Makes a value and moves it into a slot, then overwrites the stack that making it has used (16 KiB of it).
    ///
    /// # Errors
    /// [`Full`] if no slot is free; `make` is not called then.
    pub fn with(make: impl FnOnce() -> T) -> Result<Self, Full> {
        Self::within(&ARENA, make)
    }

    fn within(arena: &'static Arena, make: impl FnOnce() -> T) -> Result<Self, Full> {
        const { assert!(size_of::<T>() <= SLOT_BYTES && align_of::<T>() <= SLOT_ALIGN) };
        let slot = arena.take().ok_or(Full)?;
        let value = slot.start().cast::<T>();
        fill(value, make);
        zeroize::zeroize_stack::<STACK_BYTES>();
        Ok(Self { value, slot, owns: PhantomData })
    }
}

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `within` put a T there; the slot is ours alone until it is dropped, and the mapping is never undone.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the T is valid, no reference to it outlives `self`, and nothing reads it after this.
        unsafe { self.value.drop_in_place() }
    }
}

impl<T> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded(slot {})", self.slot.index)
    }
}

// SAFETY: a Guarded owns its T as a Box would; the slot's bookkeeping is behind a mutex.
unsafe impl<T: Send> Send for Guarded<T> {}
// SAFETY: sharing a Guarded gives nothing but `&T`.
unsafe impl<T: Sync> Sync for Guarded<T> {}

/// No slot is free. What was to be guarded must not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guarded memory is full")]
pub struct Full;

/// How well the arena is protected, from worst to best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Left out of core dumps and of forked children, but it may be swapped: `mlock(2)` was refused.
    #[default]
    Unlocked,
    /// `mlock(2)`: never swapped. A process with the right to trace us can read it.
    Locked,
    /// `memfd_secret(2)`: locked, and removed from the kernel's own map of memory, so that no other process reads it.
    MemfdSecret,
}

impl Backend {
    /// A fixed word for metrics and logs, as in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
            Self::MemfdSecret => "memfd_secret",
        }
    }
}

/// What the operator demands of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The least that will do; with anything less the daemon does not start. By default anything will, and is reported.
    pub require: Backend,
}

/// The arena is protected less well than was demanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "guarded memory is {}, but {} is required: raise RLIMIT_MEMLOCK (LimitMEMLOCK=) to 8 MiB and let the seccomp \
     profile pass memfd_secret and mlock",
    .found.label(), .required.label()
)]
pub struct Weak {
    /// What there is.
    pub found: Backend,
    /// What was demanded.
    pub required: Backend,
}

/// Maps the arena, if nothing has yet, and holds it against `config`.
///
/// # Errors
/// [`Weak`] if it is protected less well than required.
pub fn open(config: &Config) -> Result<Backend, Weak> {
    let (found, required) = (backend(), config.require);
    if found < required { Err(Weak { found, required }) } else { Ok(found) }
}

/// How the arena is protected. Maps it, if nothing has yet: some 15 ms.
#[must_use]
pub fn backend() -> Backend {
    ARENA.backend
}

/// How many values the arena holds at most: 2048, or fewer where RLIMIT_MEMLOCK is below 2 MiB.
#[must_use]
pub fn capacity() -> usize {
    ARENA.slots
}

/// How many it holds now.
#[must_use]
pub fn in_use() -> usize {
    ARENA.slots - ARENA.free().len()
}

/// One thing that [`harden_process`] could not do. To be logged; the daemon runs on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct Unhardened {
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    #[source]
    pub why: io::Error,
}

/// Takes from this process what it never needs: core dumps, being traced or read by others of the same user, and
/// gaining privileges by exec. Must be called first in `main`, before there are threads: the last of the three holds
/// for the calling thread and those it starts later. Undone only by exec.
#[must_use = "what could not be done should be logged"]
pub fn harden_process() -> Vec<Unhardened> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    [
        ("make the process undumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("forbid core files", setrlimit(Resource::Core, none)),
        ("give up new privileges", rustix::thread::set_no_new_privs(true)),
    ]
    .into_iter()
    .filter_map(|(what, result)| result.err().map(|errno| Unhardened { what, why: errno.into() }))
    .collect()
}

/// Kept apart, and never inlined, so that all that `make` leaves on the stack is below the caller's frame.
#[inline(never)]
fn fill<T>(place: NonNull<T>, make: impl FnOnce() -> T) {
    let value = make();
    // SAFETY: `within` has just taken the slot, and has checked that a T fits it in size and alignment.
    unsafe { place.write(value) }
}

/// A slot that is taken: wiped and given back on drop.
struct Slot {
    arena: &'static Arena,
    index: u32,
}

impl Slot {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: only `Arena::take` makes slots, with an index below `slots`, and the mapping has that many.
        unsafe { self.arena.base.add(self.index as usize * SLOT_BYTES) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the slot is ours, mapped and writable, and the value in it has been dropped; MaybeUninit takes bytes
        // in any state.
        let bytes = unsafe { slice::from_raw_parts_mut(self.start().cast::<MaybeUninit<u8>>().as_ptr(), SLOT_BYTES) };
        bytes.zeroize();
        // Has room for every slot since it was made: nothing is allocated here.
        self.arena.free().push(self.index);
    }
}

/// Slots between two pages that fault when touched.
struct Arena {
    base: NonNull<u8>,
    slots: usize,
    backend: Backend,
    free: Mutex<Vec<u32>>,
}

// SAFETY: `base` is only an address; who may use which slot is decided under the mutex.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// The best protection that can be had, and with it as many slots as can be had, up to `slots`. A smaller arena
    /// that is protected goes before a larger one that is not.
    fn best(slots: usize) -> Self {
        [Backend::MemfdSecret, Backend::Locked, Backend::Unlocked]
            .into_iter()
            .find_map(|backend| Self::largest(backend, slots))
            .unwrap_or_else(|| Self::over(NonNull::dangling(), 0, Backend::Unlocked))
    }

    fn largest(backend: Backend, slots: usize) -> Option<Self> {
        successors(Some(slots), |slots| Some(slots / 2))
            .take_while(|&slots| slots >= SLOTS_MIN)
            .find_map(|slots| Some(Self::over(map(backend, slots * SLOT_BYTES).ok()?, slots, backend)))
    }

    fn over(base: NonNull<u8>, slots: usize, backend: Backend) -> Self {
        let free = (0..u32::try_from(slots).unwrap_or(u32::MAX)).rev().collect();
        Self { base, slots, backend, free: Mutex::new(free) }
    }

    fn take(&'static self) -> Option<Slot> {
        let index = self.free().pop()?;
        Some(Slot { arena: self, index })
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `bytes` of zeroed memory, protected as `backend` says, for the rest of the process's life.
#[cfg(not(miri))]
fn map(backend: Backend, bytes: usize) -> io::Result<NonNull<u8>> {
    use rustix::mm::{Advice, MprotectFlags, madvise, mlock, mprotect};
    let page = rustix::param::page_size();
    let bytes = bytes.next_multiple_of(page);
    let reserved = Reserved::new(bytes + 2 * page)?;
    let inner = reserved.start.wrapping_byte_add(page);
    match backend {
        Backend::MemfdSecret => map_secret(inner, bytes)?,
        // SAFETY: the pages are of our own reservation, and nothing refers to them yet.
        Backend::Locked | Backend::Unlocked => unsafe {
            mprotect(inner, bytes, MprotectFlags::READ | MprotectFlags::WRITE)?
        },
    }
    // SAFETY: as above; neither piece of advice changes what the pages hold.
    unsafe {
        madvise(inner, bytes, Advice::LinuxDontFork)?;
        madvise(inner, bytes, Advice::LinuxDontDump)?;
    }
    for offset in (0..bytes).step_by(page) {
        // SAFETY: within the mapping, which is writable. Touched now, so that no later store can fail for want of memory.
        unsafe { inner.wrapping_byte_add(offset).cast::<u8>().write_volatile(0) }
    }
    if backend == Backend::Locked {
        // SAFETY: the pages are mapped and ours.
        unsafe { mlock(inner, bytes)? }
    }
    reserved.keep();
    NonNull::new(inner.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

/// Miri knows no such mappings; what it can judge is how the slots are used.
#[cfg(miri)]
fn map(_: Backend, bytes: usize) -> io::Result<NonNull<u8>> {
    let layout = std::alloc::Layout::from_size_align(bytes, SLOT_ALIGN).map_err(io::Error::other)?;
    // SAFETY: no arena is of size zero.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

#[cfg(not(miri))]
fn map_secret(place: *mut std::ffi::c_void, bytes: usize) -> io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = memfd_secret()?;
    rustix::fs::ftruncate(&file, bytes as u64)?;
    // SAFETY: replaces pages of our own reservation, to which nothing refers yet. The mapping outlives the descriptor,
    // which is closed so that nothing else can map the same memory.
    unsafe { mmap(place, bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED, &file, 0)? };
    Ok(())
}

/// `memfd_secret(2)`, which rustix does not have. Older kernels, some distributions (`secretmem.enable=0`) and some
/// seccomp profiles refuse it.
#[cfg(not(miri))]
fn memfd_secret() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the call takes flags only, and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let descriptor = i32::try_from(answer).ok().filter(|&descriptor| descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just opened it for us; nobody else knows it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) })
}

/// Address space that faults when touched; given back on drop unless kept.
#[cfg(not(miri))]
struct Reserved {
    start: *mut std::ffi::c_void,
    bytes: usize,
}

#[cfg(not(miri))]
impl Reserved {
    fn new(bytes: usize) -> io::Result<Self> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new private mapping, where the kernel likes.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE)? };
        Ok(Self { start, bytes })
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

#[cfg(not(miri))]
impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and no address in it was handed out. It cannot fail for such a range; if
        // it did, address space would be lost and nothing else.
        let _ = unsafe { rustix::mm::munmap(self.start, self.bytes) };
    }
}

static ARENA: LazyLock<Arena> = LazyLock::new(|| Arena::best(SLOTS));

/// A slot: an expanded AES-256-GCM key fits.
const SLOT_BYTES: usize = 1024;
const SLOT_ALIGN: usize = 64;
/// Slots in all: a quarter of the usual RLIMIT_MEMLOCK of 8 MiB, and 15 ms to touch with `memfd_secret`.
const SLOTS: usize = 2048;
/// An arena smaller than this is of no use: go on to the next backend.
const SLOTS_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn arena(slots: usize) -> &'static Arena {
        Box::leak(Box::new(Arena::over(map(Backend::Unlocked, slots * SLOT_BYTES).unwrap(), slots, Backend::Unlocked)))
    }

    fn bytes_of(arena: &Arena) -> Vec<u8> {
        // SAFETY: the mapping has that many bytes, all of them written: by the kernel or by a wipe.
        unsafe { slice::from_raw_parts(arena.base.as_ptr(), arena.slots * SLOT_BYTES) }.to_vec()
    }

    #[test]
    fn a_slot_is_all_zero_after_its_value_was_dropped() {
        let arena = arena(2);
        let guarded = Guarded::within(arena, || [0xA5_u8; SLOT_BYTES]).unwrap();
        assert_eq!(bytes_of(arena).iter().filter(|&&byte| byte == 0xA5).count(), SLOT_BYTES);
        drop(guarded);
        assert_eq!(bytes_of(arena), vec![0; 2 * SLOT_BYTES]);
    }

    #[test]
    fn the_value_is_dropped_once_and_its_slot_wiped_even_if_that_panics() {
        struct Bomb(Arc<AtomicUsize>, #[expect(dead_code, reason = "seen through the arena")] [u8; 64]);
        impl Drop for Bomb {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose");
            }
        }
        let (arena, drops) = (arena(1), Arc::new(AtomicUsize::new(0)));
        let guarded = Guarded::within(arena, || Bomb(Arc::clone(&drops), [0xA5; 64])).unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(guarded))).is_err());
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        assert_eq!(bytes_of(arena), vec![0; SLOT_BYTES]);
        assert_eq!(arena.free().len(), 1);
    }

    #[test]
    fn a_full_arena_says_so_and_recovers_when_a_slot_is_freed() {
        let arena = arena(4);
        let mut held: Vec<_> = (0..4_u32).map(|n| Guarded::within(arena, || n).unwrap()).collect();
        assert_eq!(Guarded::within(arena, || -> u32 { unreachable!("there is no slot for it") }).err(), Some(Full));
        held.remove(1);
        held.push(Guarded::within(arena, || 9).unwrap());
        assert_eq!(held.iter().map(|guarded| **guarded).collect::<Vec<_>>(), [0, 2, 3, 9]);
    }

    #[test]
    fn a_slot_comes_back_if_making_the_value_panics() {
        let arena = arena(1);
        let made = std::panic::catch_unwind(|| Guarded::within(arena, || -> u8 { panic!("on purpose") }).err());
        assert!(made.is_err());
        assert_eq!(Guarded::within(arena, || 1_u8).map(|guarded| *guarded), Ok(1));
    }

    #[test]
    fn values_are_aligned_and_do_not_overlap() {
        #[repr(align(64))]
        struct Wide([u8; SLOT_BYTES]);
        let arena = arena(8);
        let held: Vec<_> = (0..8).map(|n| Guarded::within(arena, || Wide([n; SLOT_BYTES])).unwrap()).collect();
        for (n, wide) in (0..8).zip(&held) {
            assert_eq!(&raw const **wide as usize % 64, 0);
            assert_eq!(wide.0, [n; SLOT_BYTES]);
        }
    }

    #[test]
    fn threads_never_share_a_slot() {
        let arena = arena(16);
        let workers: Vec<_> = (0..8_u64)
            .map(|worker| {
                thread::spawn(move || {
                    for round in 0..if cfg!(miri) { 10 } else { 2_000 } {
                        let mark = worker << 32 | round;
                        let Ok(guarded) = Guarded::within(arena, || [mark; 128]) else { continue };
                        assert_eq!(*guarded, [mark; 128]);
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(arena.free().len(), 16);
        assert_eq!(bytes_of(arena), vec![0; 16 * SLOT_BYTES]);
    }

    #[test]
    fn an_expanded_aes_key_fits_a_slot() {
        assert!(size_of::<aes_gcm::Aes256Gcm>() <= SLOT_BYTES, "{}", size_of::<aes_gcm::Aes256Gcm>());
    }

    #[test]
    fn a_weaker_backend_than_required_is_refused() {
        assert_eq!(open(&Config::default()), Ok(backend()));
        assert_eq!(open(&Config { require: backend() }), Ok(backend()));
        assert!(Backend::Unlocked < Backend::Locked && Backend::Locked < Backend::MemfdSecret);
    }

    #[test]
    fn debug_shows_where_and_not_what() {
        let arena = arena(1);
        assert_eq!(format!("{:?}", Guarded::within(arena, || 42_u8).unwrap()), "Guarded(slot 0)");
    }
}
