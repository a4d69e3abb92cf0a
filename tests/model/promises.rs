//! The promises, as what no reachable state may show: a plaintext that would go out now, were it asked for.

use kmsproxy::lease::Epoch;
use stateright::Property;

use super::design::{Design, MAX_AGE, TERMS};
use super::steps::Scenario;
use super::world::{CALLERS, Closed, Entry, SCOPES, World};

/// A plaintext that a caller would be given now.
struct Emission {
    caller: usize,
    scope: usize,
    entry: Entry,
}

const BOUNDED: &str = "S0 the KMS allowed this scope within a lease, and exactly this within its age";
const BOUND: &str = "S1 nothing goes out a lease after the KMS began to refuse";
const STICKY: &str = "S2 nothing goes out after a refusal was heard, but by what was asked later";
const RESURRECTION: &str = "S3 what was asked before a closing renews nothing";
const WAITERS: &str = "S4 nobody is given the answer to what a closing has overtaken";
const REENABLED: &str = "S5 what was unwrapped before a refusal never goes out after it";
const IDENTITY: &str = "S6 nothing goes to another caller, or by consent to another identity";

pub(super) const PROMISES: [&str; 7] = [BOUNDED, BOUND, STICKY, RESURRECTION, WAITERS, REENABLED, IDENTITY];

pub(super) fn all() -> Vec<Property<Scenario>> {
    vec![
        Property::always(BOUNDED, |scenario: &Scenario, world: &World| {
            each(scenario, world, |out| {
                let allowed = within(world.truth.allowed[out.scope], world.now, TERMS.duration);
                allowed && within(world.truth.granted[out.caller][out.scope], world.now, MAX_AGE)
            })
        }),
        Property::always(BOUND, |scenario: &Scenario, world: &World| {
            let over = world.refused_since().is_some_and(|since| !within(Some(since), world.now, TERMS.duration));
            !over || each(scenario, world, |_| false)
        }),
        Property::always(STICKY, |scenario: &Scenario, world: &World| {
            each(scenario, world, |out| match world.truth.closed[out.scope] {
                Closed::No => true,
                Closed::Noticed(until) => world.now < until,
                Closed::Suspended | Closed::Refused => false,
            })
        }),
        Property::always(RESURRECTION, |_, world: &World| !world.truth.resurrected),
        Property::always(WAITERS, |scenario: &Scenario, world: &World| {
            each(scenario, world, |out| !out.entry.overtaken)
        }),
        Property::always(REENABLED, |scenario: &Scenario, world: &World| {
            each(scenario, world, |out| !out.entry.refused)
        }),
        Property::always(IDENTITY, |scenario: &Scenario, world: &World| {
            each(scenario, world, |out| {
                usize::from(out.entry.owner) == out.caller && out.entry.identity == world.kms.identity
            })
        }),
        Property::sometimes(
            "a probe keeps in force what was unwrapped a lease ago",
            |scenario: &Scenario, world: &World| {
                some(scenario, world, |out| {
                    out.entry
                        .kept
                        .is_some_and(|kept| kept.expires.since(world.boot_clock()) <= MAX_AGE - TERMS.duration)
                })
            },
        ),
        Property::sometimes("a key that was refused and enabled again serves", |scenario: &Scenario, world: &World| {
            world.refused_since().is_none()
                && some(scenario, world, |out| {
                    let born = world.proxy.leases[out.scope].as_ref().is_some_and(|lease| lease.epoch() > Epoch(0));
                    born && world.left.turns == 0 && world.left.upsets == scenario.left.upsets
                })
        }),
        Property::sometimes(
            "a closing that is no refusal leaves what was kept",
            |scenario: &Scenario, world: &World| {
                let last = world.proxy.closings.ask(world.boot_clock()).epoch;
                world.left.turns == scenario.left.turns
                    && some(scenario, world, |out| out.entry.kept.is_some_and(|kept| kept.epoch < last))
            },
        ),
        Property::sometimes("two callers are served at once", |scenario: &Scenario, world: &World| {
            scenario.callers == 1 || (0..CALLERS).all(|caller| some(scenario, world, |out| out.caller == caller))
        }),
    ]
}

fn each(scenario: &Scenario, world: &World, holds: impl Fn(&Emission) -> bool) -> bool {
    emissions(&scenario.design, world).iter().all(holds)
}

fn some(scenario: &Scenario, world: &World, holds: impl Fn(&Emission) -> bool) -> bool {
    emissions(&scenario.design, world).iter().any(holds)
}

/// What would go out now: to who asks, by `Engine::look`, and to who waits, by `Engine::disembark`.
fn emissions(design: &Design, world: &World) -> Vec<Emission> {
    let now = (design.clock)(world);
    let serves = |entry: &Entry, scope: usize| match (entry.kept, &world.proxy.leases[scope]) {
        (Some(kept), Some(lease)) => (design.serves)(lease, kept, now),
        (Some(_), None) => false,
        (None, _) => true,
    };
    let mut out = Vec::new();
    for (caller, scope) in (0..CALLERS).flat_map(|caller| (0..SCOPES).map(move |scope| (caller, scope))) {
        // Whoever asks has the clocks looked at first.
        let hit = world.proxy.entries[(design.filed)(caller)][scope].filter(|_| !world.stepped);
        let places = [hit, world.proxy.landed[caller][scope]];
        let found = places.into_iter().flatten().filter(|entry| serves(entry, scope));
        out.extend(found.map(|entry| Emission { caller, scope, entry }));
    }
    out
}

fn within(since: Option<u8>, now: u8, span: std::time::Duration) -> bool {
    since.is_some_and(|since| u64::from(now - since) < span.as_secs())
}
