//! What the process counts, read back from the text in which it is scraped: so that a status, a page and a scrape cannot
//! contradict each other, and nothing is counted twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Every series, by name.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<String, Vec<Series>>);

#[derive(Debug)]
struct Series {
    labels: Vec<(String, String)>,
    value: f64,
}

/// How long things took: how many took at most so long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Latency {
    /// Upper bounds in microseconds, rising.
    pub bounds_us: Vec<u64>,
    /// How many took at most as long as the bound of the same place, and at last all there were.
    pub counts: Vec<u64>,
}

impl Figures {
    /// Reads the Prometheus text format. What is not in it is passed over.
    pub(super) fn read(text: &str) -> Self {
        let mut all: BTreeMap<String, Vec<Series>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, series)) = series(line) {
                all.entry(name).or_default().push(series);
            }
        }
        Self(all)
    }

    /// The sum of all series of `name` that have `labels`.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        whole(self.those(name, labels).map(|series| series.value).sum())
    }

    /// The sums of the series of `name` that have `labels`, by what `label` says.
    pub(super) fn by(&self, name: &str, labels: &[(&str, &str)], label: &str) -> BTreeMap<String, u64> {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for series in self.those(name, labels) {
            if let Some(value) = series.label(label) {
                *sums.entry(value.to_owned()).or_default() += series.value;
            }
        }
        sums.into_iter().map(|(value, sum)| (value, whole(sum))).collect()
    }

    /// The histogram of `name`, over all series that have `labels`.
    pub(super) fn latency(&self, name: &str, labels: &[(&str, &str)]) -> Latency {
        let mut bounds: BTreeMap<u64, f64> = BTreeMap::new();
        let mut all = 0.0;
        for series in self.those(&format!("{name}_bucket"), labels) {
            match series.label("le").and_then(|bound| bound.parse::<f64>().ok()) {
                Some(bound) if bound.is_finite() => {
                    *bounds.entry(whole((bound * 1e6).round())).or_default() += series.value;
                }
                _ => all += series.value,
            }
        }
        let (bounds_us, counts): (Vec<_>, Vec<_>) = bounds.into_iter().map(|(bound, at)| (bound, whole(at))).unzip();
        Latency { bounds_us, counts: counts.into_iter().chain([whole(all)]).collect() }
    }

    fn those<'s>(&'s self, name: &str, labels: &'s [(&str, &str)]) -> impl Iterator<Item = &'s Series> {
        let has = |series: &&Series| labels.iter().all(|(label, value)| series.label(label) == Some(value));
        self.0.get(name).into_iter().flatten().filter(has)
    }
}

impl Series {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

impl Latency {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.last().copied().unwrap_or_default()
    }

    /// What came since `before`, of the same daemon; all of it where that was another.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if before.bounds_us != self.bounds_us || before.count() > self.count() {
            return self.clone();
        }
        let counts = self.counts.iter().zip(&before.counts).map(|(now, then)| now.saturating_sub(*then)).collect();
        Self { bounds_us: self.bounds_us.clone(), counts }
    }

    /// How long the fastest `percent` of a hundred took at most, in microseconds: within two bounds, as if they were spread
    /// evenly there. None where there was nothing; the last bound where it was longer than that.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        // Exact up to 2^53.
        #[allow(clippy::cast_precision_loss)]
        let rank = count as f64 * percent / 100.0;
        let (mut low, mut below) = (0, 0);
        for (&bound, &within) in self.bounds_us.iter().zip(&self.counts) {
            #[allow(clippy::cast_precision_loss)]
            if within > below && within as f64 >= rank {
                let part = ((rank - below as f64) / (within - below) as f64).clamp(0.0, 1.0);
                return Some(low + whole((bound - low) as f64 * part));
            }
            (low, below) = (bound, within);
        }
        Some(low)
    }
}

fn series(line: &str) -> Option<(String, Series)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, quoted) = rest.split_once("=\"")?;
            let (value, after) = unquoted(quoted)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), Series { labels, value }))
}

/// A label's value up to its closing quote, and what comes after that.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// A count: never below nothing, and whole.
fn whole(value: f64) -> u64 {
    // A cast from a float saturates, and there is no other way.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = value as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP a b
# TYPE a counter
a{upstream="one",outcome="ok"} 3
a{upstream="one",outcome="k\"\\{}, x"} 4
a{upstream="two",outcome="ok"} 5
plain 7
s_bucket{face="x",le="0.00001"} 1
s_bucket{face="x",le="0.0001"} 9
s_bucket{face="x",le="+Inf"} 10
s_bucket{face="y",le="0.0001"} 1
s_bucket{face="y",le="+Inf"} 1
"#;

    #[test]
    fn what_was_counted_is_read_back_with_its_labels() {
        let figures = Figures::read(TEXT);
        assert_eq!(figures.sum("a", &[]), 12);
        assert_eq!(figures.sum("a", &[("upstream", "one")]), 7);
        assert_eq!(figures.sum("plain", &[]), 7);
        assert_eq!(figures.sum("absent", &[]), 0);
        let expected = [("k\"\\{}, x".to_owned(), 4), ("ok".to_owned(), 3)];
        assert_eq!(figures.by("a", &[("upstream", "one")], "outcome"), BTreeMap::from(expected));
        let expected = Latency { bounds_us: vec![10, 100], counts: vec![1, 9, 10] };
        assert_eq!(figures.latency("s", &[("face", "x")]), expected);
        assert_eq!(figures.latency("s", &[]).count(), 11);
    }

    #[test]
    fn a_percentile_lies_between_the_bounds_of_its_bucket_and_says_nothing_of_nothing() {
        let latency = Latency { bounds_us: vec![10, 100, 1000], counts: vec![0, 50, 100, 101] };
        let percentiles = [0.0, 25.0, 49.0, 99.0, 100.0].map(|percent| latency.percentile(percent).unwrap());
        assert_eq!(percentiles, [10, 55, 99, 999, 1000]);
        assert_eq!(Latency::default().percentile(50.0), None);
        assert_eq!(latency.since(&latency).percentile(99.0), None);
        let later = Latency { counts: vec![0, 50, 110, 111], ..latency.clone() };
        assert_eq!(later.since(&latency).counts, [0, 0, 10, 10]);
    }

    #[test]
    fn the_figures_of_a_daemon_that_was_started_anew_are_all_new() {
        let before = Latency { bounds_us: vec![10], counts: vec![5, 9] };
        let after = Latency { bounds_us: vec![10], counts: vec![1, 2] };
        assert_eq!(after.since(&before), after);
    }
}
