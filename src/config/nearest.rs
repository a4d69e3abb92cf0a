//! "Did you mean": the nearest of a list of words.

/// The word of `words` that `typed` was probably meant to be: at most a third of its letters, and at most three, wrong,
/// missing, surplus or exchanged with a neighbour.
pub(super) fn nearest<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    let limit = (typed.chars().count() / 3).clamp(1, EDITS_MAX);
    let measured = words.iter().map(|&word| (distance(&typed.to_lowercase(), &word.to_lowercase()), word));
    measured.filter(|&(edits, _)| edits <= limit).min().map(|(_, word)| word)
}

/// Optimal string alignment distance.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                let swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                let best = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[from.len()][to.len()]
}

const EDITS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_understood() {
        let words = ["address", "capacity", "max_age", "timeout"];
        for (typed, meant) in
            [("adress", "address"), ("maxage", "max_age"), ("timeuot", "timeout"), ("Capacity", "capacity")]
        {
            assert_eq!(nearest(typed, &words), Some(meant));
        }
    }

    #[test]
    fn another_word_suggests_nothing() {
        assert_eq!(nearest("endpoint", &["address", "capacity"]), None);
        assert_eq!(nearest("", &["address"]), None);
    }
}
