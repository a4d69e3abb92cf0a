//! What a computation leaves on the stack.

use std::hint::black_box;
use std::mem::MaybeUninit;

use zeroize::Zeroize;

/// Does `work`, then overwrites the stack that it has used (4 KiB of it): what AES-GCM spills there of a plaintext would
/// stay until something else came to lie upon it. Some 0.1 µs.
pub(super) fn without_trace<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    scrub();
    done
}

/// Never inlined, so that its frame and all below is what [`scrub`] overwrites.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn scrub() {
    // Words, because each is a store of its own.
    let mut below = [MaybeUninit::<u64>::uninit(); WORDS];
    below.zeroize();
    black_box(&below);
}

/// What a call of AES-GCM takes of the stack at most, without optimisation.
const WORDS: usize = 512;
