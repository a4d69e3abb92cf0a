//! A status for people: everything in words, columns aligned, nothing claimed that was not seen.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::admin::status::{Key, Old, Status, Upstream, Version};
use crate::ledger::Verdict;

mod overview;

pub(super) use overview::{plain, span};

/// The whole of it, with a line end.
pub(super) fn render(status: &Status) -> String {
    let told = Told { status };
    let mut text = format!(
        "kmsproxy {}, started {}: nothing from before that is known. Times are UTC.\n",
        status.version,
        told.time(status.started_at)
    );
    if overview::is_told(status) {
        text.push_str(&overview::daemon(told));
    }
    for upstream in &status.upstreams {
        if overview::is_told(status) {
            text.push_str(&overview::upstream(told, upstream));
        }
        text.push_str(&told.upstream(upstream));
    }
    if status.upstreams.is_empty() {
        text.push_str("\nNo upstream with a cache: nothing is counted.\n");
    }
    if status.upstreams.iter().flat_map(|upstream| &upstream.keys).any(|key| key.versions.len() > 1) {
        text.push_str(ADVICE);
    }
    text
}

#[derive(Clone, Copy)]
struct Told<'a> {
    status: &'a Status,
}

impl Told<'_> {
    fn upstream(self, upstream: &Upstream) -> String {
        let mut text = String::new();
        if upstream.keys.is_empty() {
            let _ = write!(text, "\nupstream {}: nobody has used a key yet\n", upstream.name);
        }
        for key in &upstream.keys {
            text.push_str(&self.key(upstream, key));
        }
        if upstream.forgotten_versions > 0 {
            let _ = writeln!(text, "{} versions are not counted: there were too many", upstream.forgotten_versions);
        }
        text
    }

    fn key(self, upstream: &Upstream, key: &Key) -> String {
        let mut text = format!("\nupstream {}, key {}\n", upstream.name, plain(&key.key));
        let _ = writeln!(text, "  lease {}, {} cached", lease(key), deks(key.entries));
        let _ = writeln!(text, "  {}", self.summary(key));
        let head = ["VERSION", "FIRST ASKED FOR", "LAST ASKED FOR", "DEKS CACHED"].map(str::to_owned);
        let rows: Vec<_> = key.versions.iter().map(|version| self.row(version)).collect();
        if rows.is_empty() {
            return text;
        }
        let widths: [usize; COLUMNS] =
            std::array::from_fn(|at| rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or(0));
        text.push('\n');
        text.push_str(&line(&head, widths));
        for (row, version) in rows.iter().zip(&key.versions) {
            text.push_str(&line(row, widths));
            let _ = writeln!(text, "    {}", self.verdict(key, version));
        }
        text
    }

    /// What is known of the old versions of a key, in one line.
    fn summary(self, key: &Key) -> String {
        match (key.old, key.rotated_at) {
            (Old::Seen, _) => "SOMETHING MAY BE LEFT under an old version".to_owned(),
            (Old::Unseen, Some(at)) => format!("nothing was asked for under an old version since {}", self.time(at)),
            (Old::Unseen, None) => {
                format!("nothing was asked for under an old version since kmsproxy started at {}", self.start())
            }
            (Old::Unknown, _) => format!(
                "which version is old is not known: nothing was encrypted here since kmsproxy started at {}",
                self.start()
            ),
        }
    }

    fn row(self, version: &Version) -> [String; COLUMNS] {
        let at = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| self.time(at));
        let Version { version: name, first_asked_at, last_asked_at, cached, .. } = version;
        [name.clone(), at(*first_asked_at), at(*last_asked_at), cached.to_string()]
    }

    fn verdict(self, key: &Key, version: &Version) -> String {
        // A rotation that was not seen was before the start.
        let since = if key.rotated_at.is_some() { "the rotation" } else { "kmsproxy started" };
        match version.verdict {
            Verdict::Primary => key.rotated_at.map_or_else(
                || "primary: encrypts now; no rotation was seen".to_owned(),
                |at| format!("primary: encrypts now; the rotation was seen at {}", self.time(at)),
            ),
            Verdict::Asked => {
                let what = match version.asked_since_rotation {
                    0 => "asked for".to_owned(),
                    count => format!("{} asked for", deks(count)),
                };
                format!("old: {what} since {since}: re-encrypt, then restart each kube-apiserver")
            }
            Verdict::Unasked => format!("old: none asked for since {since}"),
            Verdict::StillEncrypts => {
                let at = version.last_encrypted_at.map_or_else(String::new, |at| format!(" at {}", self.time(at)));
                format!("old, and yet seen to encrypt{at}, after the rotation: wait until all of the KMS knows of it")
            }
            Verdict::Unknown => "old or not: not known".to_owned(),
        }
    }

    fn ago(self, at: Timestamp) -> String {
        age(self.status.at.as_second() - at.as_second())
    }

    fn start(self) -> String {
        self.time(self.status.started_at)
    }

    /// `2026-01-02 03:04:05 (3d ago)`.
    fn time(self, at: Timestamp) -> String {
        format!("{} ({})", at.strftime("%Y-%m-%d %H:%M:%S"), self.ago(at))
    }
}

/// The state of a key's lease, and for how much longer, or in which words it was refused.
pub(super) fn lease(key: &Key) -> String {
    match (&key.refusal, key.lease_left_ms) {
        (Some(refusal), _) if key.lease == "refused" => format!("REFUSED: {}", plain(refusal)),
        (_, 0) => key.lease.clone(),
        (_, left) => format!("{} for {}.{} s more", key.lease, left / 1000, left % 1000 / 100),
    }
}

/// Rows under their head, columns aligned to the left, indented.
pub(super) fn columns<const N: usize>(head: [String; N], rows: Vec<[String; N]>, indent: usize) -> String {
    let all: Vec<_> = [head].into_iter().chain(rows).collect();
    let widths: [usize; N] =
        std::array::from_fn(|at| all.iter().map(|row| row[at].chars().count()).max().unwrap_or_default());
    let mut text = String::new();
    for row in all {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{:indent$}{}", "", cells.join("  ").trim_end());
    }
    text
}

fn line(cells: &[String; COLUMNS], widths: [usize; COLUMNS]) -> String {
    let [version, first, last, cached] = cells;
    let [a, b, c, d] = widths;
    format!("  {version:<a$}  {first:<b$}  {last:<c$}  {cached:>d$}\n")
}

fn deks(count: usize) -> String {
    format!("{count} {}", if count == 1 { "DEK" } else { "DEKs" })
}

fn age(seconds: i64) -> String {
    match seconds {
        ..1 => "now".to_owned(),
        1..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        86_400.. => format!("{}d ago", seconds / 86_400),
    }
}

const COLUMNS: usize = 4;

const ADVICE: &str = "
kube-apiserver keeps the DEKs that it was given and asks again only when it starts; that a DEK is cached here proves
nothing. So: re-encrypt, restart every kube-apiserver, then look at LAST ASKED FOR, wherever a kmsproxy runs. Where it is
before the re-encryption, nothing was left under that version to be asked for. Backups of etcd still need it.
";

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1f0c51f2-3a4e-4b0a-9a51-6d1b8a4f0001";
    const TWO: &str = "1f0c51f2-3a4e-4b0a-9a51-6d1b8a4f0002";

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    fn version(name: &str, verdict: Verdict, asked: [Option<Timestamp>; 2], deks: [usize; 2]) -> Version {
        let ([first_asked_at, last_asked_at], [cached, asked_since_rotation]) = (asked, deks);
        let version = name.to_owned();
        Version {
            version,
            verdict,
            first_asked_at,
            last_asked_at,
            last_encrypted_at: None,
            cached,
            asked_since_rotation,
        }
    }

    fn status(rotated_at: Option<Timestamp>, old: Old, versions: Vec<Version>) -> Status {
        let key = Key {
            key: "key-hzz62f".to_owned(),
            lease: "serving".to_owned(),
            entries: versions.iter().map(|version| version.cached).sum(),
            primary: (old != Old::Unknown).then(|| TWO.to_owned()),
            rotated_at,
            old,
            versions,
            ..Key::default()
        };
        Status {
            version: "0.1.0".to_owned(),
            started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            at: "2026-01-04T12:00:00Z".parse().unwrap(),
            upstreams: vec![Upstream { name: "hangzhou".to_owned(), keys: vec![key], ..Upstream::default() }],
            ..Status::default()
        }
    }

    #[test]
    fn a_rotation_that_is_not_done_shows_what_to_do_and_no_advice_is_missing() {
        let asked = [at("2026-01-01T00:00:10Z"), at("2026-01-04T11:20:00Z")];
        let versions = vec![
            version(TWO, Verdict::Primary, [at("2026-01-04T11:59:58Z"); 2], [1, 1]),
            version(ONE, Verdict::Asked, asked, [12, 3]),
        ];
        let expected = "\
kmsproxy 0.1.0, started 2026-01-01 00:00:00 (3d ago): nothing from before that is known. Times are UTC.

upstream hangzhou, key key-hzz62f
  lease serving, 13 DEKs cached
  SOMETHING MAY BE LEFT under an old version

  VERSION                               FIRST ASKED FOR               LAST ASKED FOR                 DEKS CACHED
  1f0c51f2-3a4e-4b0a-9a51-6d1b8a4f0002  2026-01-04 11:59:58 (2s ago)  2026-01-04 11:59:58 (2s ago)             1
    primary: encrypts now; the rotation was seen at 2026-01-04 09:00:00 (3h ago)
  1f0c51f2-3a4e-4b0a-9a51-6d1b8a4f0001  2026-01-01 00:00:10 (3d ago)  2026-01-04 11:20:00 (40m ago)           12
    old: 3 DEKs asked for since the rotation: re-encrypt, then restart each kube-apiserver
";
        let rendered = render(&status(at("2026-01-04T09:00:00Z"), Old::Seen, versions));
        assert_eq!(rendered, format!("{expected}{ADVICE}"));
    }

    #[test]
    fn that_nothing_is_left_is_said_for_the_time_that_was_seen_and_for_no_more() {
        let versions = || {
            vec![
                version(TWO, Verdict::Primary, [None; 2], [0, 0]),
                version(ONE, Verdict::Unasked, [at("2026-01-01T00:00:10Z"); 2], [12, 0]),
            ]
        };
        let rendered = render(&status(at("2026-01-04T09:00:00Z"), Old::Unseen, versions()));
        for told in [
            "\n  nothing was asked for under an old version since 2026-01-04 09:00:00 (3h ago)\n",
            "\n    old: none asked for since the rotation\n",
        ] {
            assert!(rendered.contains(told), "{told}{rendered}");
        }
        let rendered = render(&status(None, Old::Unseen, versions()[..1].to_vec()));
        let told =
            "\n  nothing was asked for under an old version since kmsproxy started at 2026-01-01 00:00:00 (3d ago)\n";
        assert!(rendered.contains(told), "{rendered}");
        assert!(!rendered.contains(ADVICE), "there is no old version to be done with");
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let versions = vec![version(ONE, Verdict::Unknown, [at("2026-01-01T00:00:10Z"); 2], [1, 1])];
        let rendered = render(&status(None, Old::Unknown, versions));
        let told = "\n  which version is old is not known: nothing was encrypted here since kmsproxy started at 2026-01-01 \
                    00:00:00 (3d ago)\n";
        assert!(rendered.contains(told), "{rendered}");
        assert!(!rendered.contains("nothing was asked for"), "{rendered}");
    }

    #[test]
    fn an_age_has_one_unit() {
        let ages = [-5, 0, 1, 59, 60, 3599, 3600, 86_399, 86_400, 86_400 * 400].map(age);
        let expected =
            ["now", "now", "1s ago", "59s ago", "1m ago", "59m ago", "1h ago", "23h ago", "1d ago", "400d ago"];
        assert_eq!(ages, expected);
    }
}
