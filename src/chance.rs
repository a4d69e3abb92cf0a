//! Draws that spread things out. Nothing secret is made of them.

use std::cell::Cell;

/// Evenly from 0 to just under 1.
#[must_use]
pub fn share() -> f64 {
    // The upper half: a double has room for it, and no more is needed.
    f64::from(u32::try_from(number() >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
}

/// Any number. Should the kernel's generator fail, which it does not once the machine is up, 0: things then happen
/// together instead of spread out.
#[must_use]
pub fn number() -> u64 {
    let Some(state) = SEQUENCE.get() else { return getrandom::u64().unwrap_or(0) };
    // SplitMix64.
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    SEQUENCE.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// From now on, this thread draws the sequence of `seed`: for simulations that must draw the same again.
pub fn repeat(seed: u64) {
    SEQUENCE.set(Some(seed));
}

thread_local! {
    static SEQUENCE: Cell<Option<u64>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_sequence_and_another_has_another() {
        let drawn = |seed| {
            repeat(seed);
            [share(), share(), share()]
        };
        let first = drawn(7);
        assert_eq!(drawn(7), first);
        assert_ne!(drawn(8), first);
        assert!(first.iter().all(|share| (0.0..1.0).contains(share)));
    }
}
