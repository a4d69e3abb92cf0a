//! What was counted before, line by line, and what is counted now beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Instructions of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// All of them.
    pub(crate) all: u64,
    /// Those that neither hash a block nor wipe the stack.
    pub(crate) besides: u64,
}

/// Those of each case.
pub(crate) type Counts = Vec<(&'static str, Count)>;

/// The committed table.
pub(crate) struct Table {
    pub(crate) compiler: String,
    rows: Vec<(String, Count)>,
}

impl Table {
    pub(crate) fn of(counts: &Counts) -> Self {
        Self { compiler: compiler(), rows: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect() }
    }

    pub(crate) fn read() -> Self {
        let text = std::fs::read_to_string(file()).unwrap();
        let compiler = text.lines().find_map(|line| line.strip_prefix(COMPILER)).unwrap_or_default().to_owned();
        let rows = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, all, besides] = words[..] else { panic!("a name and two numbers: {line}") };
            (name.to_owned(), Count { all: all.parse().unwrap(), besides: besides.parse().unwrap() })
        });
        Self { compiler, rows: rows.collect() }
    }

    pub(crate) fn write(&self) {
        let mut text =
            format!("{HEAD}{COMPILER}{}\n# {:22}{:>9}{:>20}\n", self.compiler, "", "all", "but hashing, wiping");
        for (name, Count { all, besides }) in &self.rows {
            let _ = writeln!(text, "{name:24}{all:>9}{besides:>20}");
        }
        std::fs::write(file(), text).unwrap();
        println!("written to {}", file().display());
    }

    /// The compiler of now, where it is not the table's.
    pub(crate) fn of_another_compiler(&self) -> Option<String> {
        let now = compiler();
        (now != self.compiler).then_some(now)
    }

    pub(crate) fn beside(&self, counts: &Counts) -> String {
        let mut text = format!("{:24}{:>27}{:>36}\n", "instructions", "all", "but hashing, wiping");
        for &(name, now) in counts {
            let before = self.of_case(name);
            let cell = |pick: fn(Count) -> u64| match before {
                None => format!("{:>18}{:>9}", pick(now), "new"),
                Some(before) => format!("{:>18}{:>+8.1}%", pick(now), growth(pick(before), pick(now))),
            };
            let _ = writeln!(text, "{name:24}{}         {}", cell(|count| count.all), cell(|count| count.besides));
        }
        text
    }

    /// What takes too many more than it did, or has no row, or has a row and is no more.
    pub(crate) fn complaints(&self, counts: &Counts) -> Vec<String> {
        let mut found = Vec::new();
        for &(name, now) in counts {
            let Some(before) = self.of_case(name) else {
                found.push(format!("{name}: is not in the table"));
                continue;
            };
            for (what, before, now) in
                [("", before.all, now.all), (" but hashing and wiping", before.besides, now.besides)]
            {
                let grown = growth(before, now);
                if grown > GROWTH_MAX {
                    found.push(format!(
                        "{name}: {now} instructions{what}, {grown:.1} % more than the {before} of the table; \
                         {GROWTH_MAX} % are allowed"
                    ));
                }
            }
        }
        let gone = self.rows.iter().filter(|(name, _)| !counts.iter().any(|(counted, _)| counted == name));
        found.extend(gone.map(|(name, _)| format!("{name}: is in the table and was not counted")));
        found
    }

    fn of_case(&self, name: &str) -> Option<Count> {
        self.rows.iter().find(|(row, _)| row == name).map(|&(_, count)| count)
    }
}

pub(crate) fn listed(counts: &Counts) -> String {
    let line = |(name, Count { all, besides }): &(&str, Count)| format!("{name:24}{all:>9}{besides:>20}\n");
    counts.iter().map(line).collect()
}

/// Whether this program was built as the table says.
pub(crate) fn is_built_for() -> bool {
    std::env::var_os("KMSPROXY_COUNTED").is_some()
}

fn growth(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

fn compiler() -> String {
    let said = Command::new("rustc").arg("--version").output().unwrap();
    let version = String::from_utf8(said.stdout).unwrap();
    format!("{}, {}", version.trim(), std::env::consts::ARCH)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/counts.txt")
}

/// Percent. Between two runs of the same code on the same machine there is a tenth.
const GROWTH_MAX: f64 = 10.0;
pub(crate) const RENEW: &str = "renew the table: cargo bench --profile dev --config benches/instructions/build.toml \
                                --bench instructions -- --renew";
const COMPILER: &str = "# by ";
const HEAD: &str = "\
# Instructions of one operation, as valgrind counts them; benches/README.md says of what. Renewed by
# cargo bench --profile dev --config benches/instructions/build.toml --bench instructions -- --renew
";
