//! What a computation leaves on the stack.

/// Does `work`, then overwrites the stack that it has used (4 KiB of it): what AES-GCM spills there of a plaintext, or HMAC of
/// its key, would stay until something else came to lie upon it. Some 0.05 µs.
pub fn without_trace<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    zeroize::zeroize_stack::<BYTES>();
    done
}

/// Never inlined, so that its frame and all below is what is overwritten.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// What a call of AES-GCM takes of the stack at most, without optimisation.
const BYTES: usize = 4096;
