//! What befalls a simulation: drawn from its seed, in force between two instants, over well before the end.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::SignedDuration;
use kmsproxy::upstream::local::{Behaviour, Rate};
use turmoil::Sim;

use super::world::{ACCESS_KEYS, World};

/// A small generator of its own, so that what is drawn here depends on nothing else.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Evenly from 0 to below `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64; the bias of the remainder is of no matter here.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_millis()).unwrap().max(1);
        least + Duration::from_millis(self.roll(span))
    }
}

/// A fault and when it is in force.
#[derive(Clone, Copy)]
pub(crate) struct Spell {
    from: Duration,
    to: Duration,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    KmsIsDown,
    ProxyIsDown,
    /// Between which two: see [`LINKS`].
    Partition(usize),
    OneWayPartition(usize),
    Hold(usize),
    /// Of what is sent within a few hundredths of a second: the connections that it belonged to never speak again.
    Loss(usize),
    SlowKms(u64),
    IllKms,
    SilentKms,
    Throttled(u32),
    KeyDisabled(usize),
    KeyDeleted(usize),
    Rotated(usize),
    /// The KMS accepts another access key from the beginning, and the proxy finds it at the end.
    CredentialsExpired,
    KeptFromLast(usize),
    WallSteps(i64),
    Suspended(u64),
}

impl Fault {
    fn draw(dice: &mut Dice) -> Self {
        let (link, key) = (usize::try_from(dice.roll(2)).unwrap(), usize::try_from(dice.roll(2)).unwrap());
        match dice.roll(20) {
            0 => Self::KmsIsDown,
            1 => Self::ProxyIsDown,
            2 | 3 => Self::Partition(link),
            4 => Self::OneWayPartition(link),
            5 => Self::Hold(link),
            6 => Self::Loss(link),
            7 | 8 => Self::SlowKms(50 + dice.roll(900)),
            9 => Self::IllKms,
            10 => Self::SilentKms,
            11 => Self::Throttled(u32::try_from(dice.roll(4)).unwrap()),
            12..=14 => Self::KeyDisabled(key),
            15 => Self::KeyDeleted(key),
            16 => Self::Rotated(key),
            17 => Self::CredentialsExpired,
            18 => Self::KeptFromLast(key),
            _ if dice.roll(2) == 0 => Self::WallSteps([3, -3, 3600, -3600, 86_400, -86_400][key * 3 + link]),
            _ => Self::Suspended(200 + dice.roll(5000)),
        }
    }

    /// Two of a kind do not overlap: ending one would end the other.
    const fn kind(self) -> u8 {
        match self {
            Self::KmsIsDown => 0,
            Self::ProxyIsDown => 1,
            Self::Partition(_) | Self::OneWayPartition(_) | Self::Hold(_) | Self::Loss(_) => 2,
            Self::SlowKms(_) | Self::IllKms | Self::SilentKms | Self::Throttled(_) => 3,
            Self::KeyDisabled(_) | Self::KeyDeleted(_) | Self::Rotated(_) => 4,
            Self::CredentialsExpired => 5,
            Self::KeptFromLast(_) => 6,
            Self::WallSteps(_) | Self::Suspended(_) => 7,
        }
    }

    fn begin(self, sim: &mut Sim<'_>, world: &World) {
        let behave = |behaviour| world.local.behave(behaviour);
        match self {
            Self::KmsIsDown => world.kms_wires.end_by(|| sim.crash("kms")),
            Self::ProxyIsDown => world.proxy_wires.end_by(|| sim.crash("proxy")),
            Self::Partition(link) | Self::Loss(link) => sim.partition(LINKS[link].0, LINKS[link].1),
            Self::OneWayPartition(link) => sim.partition_oneway(LINKS[link].1, LINKS[link].0),
            Self::Hold(link) => sim.hold(LINKS[link].0, LINKS[link].1),
            Self::SlowKms(ms) => {
                let latency = Duration::from_millis(ms);
                behave(Behaviour { latency, jitter: latency, ..Behaviour::default() });
            }
            Self::IllKms => behave(Behaviour { error_rate: Rate::try_from(0.5).unwrap(), ..Behaviour::default() }),
            Self::SilentKms => behave(Behaviour { stall: true, ..Behaviour::default() }),
            Self::Throttled(quota) => behave(Behaviour { quota: Some(quota), ..Behaviour::default() }),
            Self::KeyDisabled(key) => drop(world.local.disable(&world.keys[key]).unwrap()),
            Self::KeyDeleted(key) => drop(world.local.schedule_deletion(&world.keys[key], 7).unwrap()),
            Self::Rotated(key) => drop(world.local.rotate(&world.keys[key]).unwrap()),
            Self::CredentialsExpired => {
                let next = (world.ring.accepted.load(Ordering::Relaxed) + 1) % ACCESS_KEYS;
                world.ring.accepted.store(next, Ordering::Relaxed);
            }
            Self::KeptFromLast(key) => world.grant(Some(key)),
            Self::WallSteps(seconds) => world.clock.step_wall(SignedDuration::from_secs(seconds)),
            Self::Suspended(ms) => world.clock.sleep(Duration::from_millis(ms)),
        }
    }

    fn end(self, sim: &mut Sim<'_>, world: &World) {
        match self {
            Self::KmsIsDown => sim.bounce("kms"),
            Self::ProxyIsDown => sim.bounce("proxy"),
            Self::Partition(link) | Self::Loss(link) => sim.repair(LINKS[link].0, LINKS[link].1),
            Self::OneWayPartition(link) => sim.repair_oneway(LINKS[link].1, LINKS[link].0),
            Self::Hold(link) => sim.release(LINKS[link].0, LINKS[link].1),
            Self::SlowKms(_) | Self::IllKms | Self::SilentKms | Self::Throttled(_) => {
                world.local.behave(Behaviour::default());
            }
            Self::KeyDisabled(key) => drop(world.local.enable(&world.keys[key]).unwrap()),
            Self::KeyDeleted(key) => drop(world.local.cancel_deletion(&world.keys[key]).unwrap()),
            Self::CredentialsExpired => {
                let accepted = world.ring.accepted.load(Ordering::Relaxed);
                world.ring.found.store(accepted, Ordering::Relaxed);
            }
            Self::KeptFromLast(_) => world.grant(None),
            Self::Rotated(_) | Self::WallSteps(_) | Self::Suspended(_) => {}
        }
    }
}

/// Everything that befalls one simulation.
pub(crate) struct Plan {
    spells: Vec<Spell>,
    /// Beginnings and ends that are still to come, the next one last.
    ahead: Vec<(Duration, Fault, bool)>,
    pub(crate) restarts: Vec<u64>,
    pub(crate) steps: Vec<u64>,
}

impl Plan {
    /// Whether the KMS is to throttle for a while.
    pub(crate) fn throttles(&self) -> bool {
        self.spells.iter().any(|spell| matches!(spell.fault, Fault::Throttled(_)))
    }

    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut spells: Vec<Spell> = Vec::new();
        for _ in 0..4 + dice.roll(6) {
            let fault = Fault::draw(dice);
            let longest = Duration::from_millis(if matches!(fault, Fault::Loss(_)) { 60 } else { 5000 });
            // The keeper asks for other credentials at most every 5 s.
            let end = if fault == Fault::CredentialsExpired { END - Duration::from_millis(2500) } else { END };
            let from = dice.between(CALM, end);
            let to = (from + dice.between(Duration::from_millis(10), longest)).min(end);
            let overlaps = |other: &Spell| other.fault.kind() == fault.kind() && other.from <= to && from <= other.to;
            if !spells.iter().any(overlaps) {
                spells.push(Spell { from, to, fault });
            }
        }
        spells.sort_by_key(|spell| spell.from);
        let edges = |spell: &Spell| [(spell.from, spell.fault, true), (spell.to, spell.fault, false)];
        let mut ahead: Vec<_> = spells.iter().flat_map(edges).collect();
        ahead.sort_by_key(|(at, _, _)| std::cmp::Reverse(*at));
        Self { spells, ahead, restarts: Vec::new(), steps: Vec::new() }
    }

    /// Carries out what is due.
    pub(crate) fn advance(&mut self, sim: &mut Sim<'_>, world: &World) {
        while let Some((_, fault, begins)) = self.ahead.pop_if(|(at, _, _)| *at <= sim.elapsed()) {
            if begins {
                fault.begin(sim, world);
            } else {
                fault.end(sim, world);
            }
            if begins && fault == Fault::ProxyIsDown {
                self.restarts.push(world.clock.ns());
            }
            if begins && matches!(fault, Fault::WallSteps(_)) {
                self.steps.push(world.clock.ns());
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spells.iter().try_for_each(|Spell { from, to, fault }| {
            writeln!(f, "  {:>7.3} to {:>7.3}  {fault:?}", from.as_secs_f64(), to.as_secs_f64())
        })
    }
}

pub(crate) const LINKS: [(&str, &str); 2] = [("proxy", "kms"), ("load", "proxy")];
/// Before it nothing happens.
const CALM: Duration = Duration::from_secs(1);
/// After it, nothing does.
const END: Duration = Duration::from_secs(8);
