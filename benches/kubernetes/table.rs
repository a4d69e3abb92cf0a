//! What was measured, as people read it.

/// Measures of two things that are compared, by case, in the order of the rounds.
pub(crate) struct Table {
    measured: &'static str,
    yardstick: &'static str,
    cases: Vec<Case>,
}

struct Case {
    name: &'static str,
    measured: Vec<f64>,
    yardstick: Vec<f64>,
}

impl Table {
    pub(crate) const fn new(measured: &'static str, yardstick: &'static str) -> Self {
        Self { measured, yardstick, cases: Vec::new() }
    }

    pub(crate) fn add(&mut self, case: &'static str, target: &str, value: f64) {
        if !self.cases.iter().any(|other| other.name == case) {
            self.cases.push(Case { name: case, measured: Vec::new(), yardstick: Vec::new() });
        }
        let case = self.cases.iter_mut().find(|other| other.name == case).expect("it was just put there");
        if target == self.measured { &mut case.measured } else { &mut case.yardstick }.push(value);
    }

    pub(crate) fn last(&self, case: &str, target: &str) -> f64 {
        let case = self.cases.iter().find(|other| other.name == case);
        let values = case.map(|case| if target == self.measured { &case.measured } else { &case.yardstick });
        values.and_then(|values| values.last()).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn print(&self) {
        let (measured, yardstick) = (self.measured, self.yardstick);
        println!("\n{:44} {measured:>12} {yardstick:>12} {:>8}   least to most", "median of the rounds", "ratio");
        for Case { name, measured, yardstick } in &self.cases {
            let mut ratios: Vec<f64> = measured.iter().zip(yardstick).map(|(one, other)| one / other).collect();
            ratios.sort_by(f64::total_cmp);
            let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
            let (one, other, ratio) = (median(measured), median(yardstick), median(&ratios));
            println!("{name:44} {one:12.1} {other:12.1} {ratio:8.2}   {least:.2} to {most:.2}");
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
