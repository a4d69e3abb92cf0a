//! What a computation leaves on the stack.

/// Does `work`, then overwrites so many bytes of the stack below: what AES-GCM spills there of a plaintext and of its key, or
/// HMAC of its key, would stay until something else came to lie upon it. 4 KiB take some 0.05 µs.
///
/// How much `work` takes differs by processor, for the libraries choose by what it can do: hold it by a test, as those do that
/// ask for its `depth`.
pub fn without_trace<const BYTES: usize, T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    zeroize::zeroize_stack::<BYTES>();
    done
}

/// Never inlined, so that its frame and all below is what is overwritten.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// How much is overwritten after a value was made in guarded memory; the deepest maker is an AES key schedule.
pub const STACK_BYTES: usize = 16 << 10;

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// How far down the stack `work` has written, in bytes.
    pub fn depth<T>(work: impl FnOnce() -> T) -> usize {
        let below = left(work);
        below.len() - below.iter().position(|&byte| byte != 0).unwrap_or(below.len())
    }

    /// The stack below the caller, the deepest byte first, as `work` has left it.
    pub fn left<T>(work: impl FnOnce() -> T) -> Vec<u8> {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut below = vec![0; DEEPEST];
        let here = 0_u8;
        zeroize::zeroize_stack::<{ 2 * DEEPEST }>();
        let done = apart(work);
        // As the kernel reads it: what lies there is nobody's.
        memory.read_exact_at(&mut below, (&raw const here).addr() as u64 - DEEPEST as u64).unwrap();
        drop(done);
        below
    }

    #[test]
    fn what_a_computation_leaves_on_the_stack_is_seen_and_is_not_there_without_a_trace() {
        let work = || black_box([7_u8; DEEP]).iter().filter(|&&byte| byte == 7).count();
        let sevens = |below: Vec<u8>| below.iter().filter(|&&byte| byte == 7).count();
        assert!(depth(work) >= DEEP && sevens(left(work)) >= DEEP / 2);
        assert!(sevens(left(|| without_trace::<DEEPEST, _>(work))) < 100);
    }

    const DEEPEST: usize = 128 << 10;
    const DEEP: usize = DEEPEST / 4;
}
