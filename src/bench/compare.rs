//! Two targets in one run: round by round, in turns, so that what the machine does meanwhile hits both.

use super::record::{BEYOND, Comparison, Phase, Ratio, Target};

/// The first of `targets` against the second. Rounds are paired by their number.
pub(super) fn compare(targets: &[Target], rounds: u32) -> Option<Comparison> {
    let [first, second] = targets else { return None };
    let mut names: Vec<&str> = first.phases.iter().map(|phase| phase.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let order = |name: &&str| first.phases.iter().position(|phase| phase.name == **name);
    names.sort_by_key(order);
    let ratios = names.iter().flat_map(|name| {
        MEASURES.iter().filter_map(|measure| ratio(name, measure, &first.phases, &second.phases, rounds))
    });
    let ratios = ratios.collect();
    Some(Comparison { of: first.name.clone(), to: second.name.clone(), rounds, ratios })
}

fn ratio(phase: &str, measure: &Measure, first: &[Phase], second: &[Phase], rounds: u32) -> Option<Ratio> {
    let of = |phases: &[Phase], round| {
        let here = phases.iter().filter(|other| other.name == phase && other.round == round);
        let values: Vec<f64> = here.filter_map(measure.of).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    let pairs: Vec<(f64, f64)> =
        (1..=rounds).filter_map(|round| Some((of(first, round)?, of(second, round)?))).collect();
    let pairs: Vec<_> = pairs.into_iter().filter(|(_, other)| *other > 0.0).collect();
    let ratios: Vec<f64> = pairs.iter().map(|(one, other)| one / other).collect();
    let (least, most) = (ratios.iter().copied().reduce(f64::min)?, ratios.iter().copied().reduce(f64::max)?);
    let column = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
    Some(Ratio {
        phase: phase.to_owned(),
        measure: measure.name.to_owned(),
        of: column(|pair| pair.0),
        to: column(|pair| pair.1),
        median: median(&ratios),
        least,
        most,
        noisy: ratios.len() < ROUNDS_MIN || most > NOISE_MAX * least,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[half - 1], sorted[half]) } else { sorted[half] }
}

struct Measure {
    name: &'static str,
    of: fn(&Phase) -> Option<f64>,
}

/// What is compared. In an open loop below the limit throughput is what was offered, and says nothing: it is left out.
const MEASURES: [Measure; 7] = [
    Measure { name: "calls a second", of: |phase| (phase.kind == "closed").then_some(phase.per_second) },
    Measure { name: "p50 µs", of: |phase| phase.latency_us.map(|latency| latency.p50) },
    Measure { name: "p99 µs", of: |phase| phase.latency_us.map(|latency| latency.p99) },
    Measure { name: "p99.9 µs", of: |phase| phase.latency_us.map(|latency| latency.p999) },
    Measure { name: "CPU µs a call", of: |phase| phase.cpu_us_per_call },
    Measure { name: BEYOND, of: |phase| phase.figures.get(BEYOND).copied() },
    Measure { name: "remote calls", of: |phase| phase.remote_calls.map(|calls| calls as f64) },
];

/// The rule by which a run is too noisy to judge: fewer rounds than three, or a round whose ratio is above one and a half
/// times another's.
pub(super) const NOISE_MAX: f64 = 1.5;
const ROUNDS_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::face::Face;
    use crate::bench::measured::Measured;
    use std::time::Duration;

    fn target(name: &str, rates: &[f64]) -> Target {
        let phase = |(round, rate): (u32, &f64)| {
            let mut phase = Phase::of("hits", &Measured::new(Duration::from_secs(1)), 1);
            (phase.round, phase.per_second, phase.kind) = (round, *rate, "closed".to_owned());
            phase
        };
        let phases = (1..).zip(rates).map(phase).collect();
        Target { name: name.to_owned(), address: String::new(), face: Face::AliyunV1, phases }
    }

    #[test]
    fn ratios_are_those_of_rounds_and_not_of_medians() {
        let targets = [target("a", &[10.0, 100.0, 30.0]), target("b", &[20.0, 200.0, 50.0])];
        let compared = compare(&targets, 3).unwrap();
        let found = &compared.ratios[0];
        assert_eq!((found.of, found.to, found.median), (30.0, 50.0, 0.5));
        assert_eq!((found.least, found.most, found.noisy), (0.5, 0.6, false));
        assert_eq!(compared.ratios.len(), 1);
    }

    #[test]
    fn a_run_is_noisy_with_two_rounds_or_with_rounds_that_differ_by_half() {
        let of = |one: &[f64], other: &[f64]| {
            compare(&[target("a", one), target("b", other)], one.len() as u32).unwrap().ratios[0].noisy
        };
        assert!(of(&[1.0, 1.0], &[1.0, 1.0]));
        assert!(of(&[1.0, 1.0, 1.6], &[1.0, 1.0, 1.0]));
        assert!(!of(&[1.0, 1.0, 1.4], &[1.0, 1.0, 1.0]));
    }
}
