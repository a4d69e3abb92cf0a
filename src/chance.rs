//! Draws that spread things out. Nothing secret is made of them.

/// Evenly from 0 to just under 1. Should the kernel's generator fail, which it does not once the machine is up, 0: things
/// then happen together instead of spread out.
#[must_use]
pub fn share() -> f64 {
    f64::from(getrandom::u32().unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}
