//! One picture of a course.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::course::{Course, Pace};
use crate::admin::Status;
use crate::admin::status::{Key, Upstream};
use crate::ctl::table::{lease, plain, span};

/// Draws what was heard last, and at which pace it came.
pub(super) fn draw(frame: &mut Frame<'_>, course: &Course) {
    let Some(status) = course.last() else { return };
    let keys = status.upstreams.iter().map(|upstream| upstream.keys.len()).sum::<usize>();
    let refusals = status.upstreams.iter().map(|upstream| upstream.refusals.len()).sum::<usize>();
    let [head, pace, line, kms, leases, refused, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(3),
        Constraint::Length(rows(status.upstreams.len(), 4) + 2),
        Constraint::Length(rows(keys.max(1), KEYS_SHOWN) + 2),
        Constraint::Min(rows(refusals.clamp(1, 3), REFUSALS_SHOWN) + 1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(status, course.failure())), head);
    draw_pace(frame, pace, status, course);
    let rates = course.requests();
    let shown = rates.len().min(usize::from(line.width));
    frame.render_widget(
        Sparkline::default().data(&rates[rates.len() - shown..]).style(Style::new().fg(Color::Cyan)),
        line,
    );
    frame.render_widget(upstreams(status), kms);
    frame.render_widget(leases_of(status), leases);
    frame.render_widget(refusals_of(status), refused);
    frame.render_widget(Paragraph::new("q ends it").style(Style::new().add_modifier(Modifier::DIM)), foot);
}

fn title(status: &Status, failure: Option<&str>) -> Line<'static> {
    let mut spans = vec![
        Span::styled(format!("kmsproxy {}", status.version), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("  up {}  {}  ", age(status.uptime_ms / 1000), status.memory)),
    ];
    match (failure, status.obstacles.first()) {
        (Some(failure), _) => spans.push(bad(format!("NO ANSWER: {}", plain(failure)))),
        (None, Some(obstacle)) => spans.push(bad(format!("NOT READY: {}", plain(obstacle)))),
        (None, None) => spans.push(Span::styled("ready", Style::new().fg(Color::Green))),
    }
    Line::from(spans)
}

fn draw_pace(frame: &mut Frame<'_>, area: Rect, status: &Status, course: &Course) {
    let Pace { requests, failed, attempts, hits, latency } = course.pace(PACE_SECONDS);
    let percentile = |percent| latency.percentile(percent).map_or_else(|| "-".to_owned(), span);
    let hits = hits.map_or_else(|| "-".to_owned(), |hits| format!("{:.1} %", (hits * 10.0).floor() / 10.0));
    let (connections, in_flight) =
        status.listeners.iter().fold((0, 0), |(all, busy), one| (all + one.connections, busy + one.in_flight));
    let failing = if failed > 0.0 { bad(format!("  failed {failed:.1}/s")) } else { Span::raw("") };
    let cache = status.cache;
    let lines = vec![
        Line::from(vec![
            Span::raw(format!("requests {requests:.1}/s")),
            failing,
            Span::raw(format!("  from memory {hits}  asked of the KMS {attempts:.1}/s")),
        ]),
        Line::from(format!(
            "latency p50 {}  p90 {}  p99 {}  p99.9 {}  (last {PACE_SECONDS} s)",
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(99.9)
        )),
        Line::from(format!(
            "connections {connections}  in flight {in_flight}  cache {} of {} DEKs, {} thrown out",
            cache.entries, cache.capacity, cache.evictions
        )),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn upstreams(status: &Status) -> Table<'static> {
    let rows = status.upstreams.iter().map(|upstream| {
        let health = match upstream.health.as_str() {
            "answering" => Cell::from(Span::styled("answers", Style::new().fg(Color::Green))),
            "silent" => Cell::from(bad("SILENT".to_owned())),
            _ => Cell::from("unasked"),
        };
        let latency = upstream.latency.percentile(50.0).map_or_else(|| "-".to_owned(), span);
        Row::new([
            Cell::from(upstream.name.clone()),
            health,
            Cell::from(latency),
            Cell::from(quota(upstream)),
            Cell::from(upstream.failure.as_deref().map(plain).unwrap_or_default()),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(24),
        Constraint::Min(8),
    ];
    Table::new(rows, widths).header(head(["UPSTREAM", "KMS", "p50", "QUOTA", "LAST FAILURE"]))
}

/// The limit of cryptography, and who waits for it.
fn quota(upstream: &Upstream) -> String {
    let Some(quota) = upstream.quotas.first() else { return "-".to_owned() };
    let waiting: u64 = quota.waiting.values().sum();
    let limit = if quota.limit > 0 { format!("{}/s", quota.limit) } else { "no limit".to_owned() };
    format!("{limit}, {waiting} waiting")
}

fn leases_of(status: &Status) -> Table<'static> {
    let mut all: Vec<(&Upstream, &Key)> =
        status.upstreams.iter().flat_map(|upstream| upstream.keys.iter().map(move |key| (upstream, key))).collect();
    // What must be seen comes first.
    all.sort_by_key(|(_, key)| crate::watch::rank(&key.lease));
    let rows = all.into_iter().take(KEYS_SHOWN).map(|(upstream, key)| {
        let words = lease(key);
        let state = match key.lease.as_str() {
            "serving" => Span::styled(words, Style::new().fg(Color::Green)),
            "unknown" => Span::raw(words),
            _ => bad(words),
        };
        Row::new([
            Cell::from(plain(&key.key)),
            Cell::from(upstream.name.clone()),
            Cell::from(key.entries.to_string()),
            Cell::from(state),
        ])
    });
    let widths = [Constraint::Length(36), Constraint::Length(12), Constraint::Length(8), Constraint::Min(16)];
    Table::new(rows, widths).header(head(["KEY", "UPSTREAM", "DEKS", "LEASE"]))
}

fn refusals_of(status: &Status) -> Table<'static> {
    let mut all: Vec<_> = status.upstreams.iter().flat_map(|upstream| &upstream.refusals).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    let rows = all.into_iter().take(REFUSALS_SHOWN).map(|one| {
        let ago = u64::try_from(status.at.as_second() - one.at.as_second()).unwrap_or_default();
        let why =
            one.key.as_ref().map_or_else(|| plain(&one.why), |key| format!("{}: {}", plain(key), plain(&one.why)));
        Row::new([age(ago), one.times.to_string(), one.caller.clone(), one.action.clone(), why])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(16),
        Constraint::Length(16),
        Constraint::Min(16),
    ];
    Table::new(rows, widths).header(head(["REFUSED", "TIMES", "CALLER", "ACTION", "WHY"]))
}

fn head<const N: usize>(words: [&'static str; N]) -> Row<'static> {
    Row::new(words).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED))
}

fn bad(text: String) -> Span<'static> {
    Span::styled(text, Style::new().fg(Color::Red).add_modifier(Modifier::BOLD))
}

/// How long ago, or for how long, in one unit.
fn age(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        86_400.. => format!("{} d", seconds / 86_400),
    }
}

fn rows(count: usize, most: usize) -> u16 {
    u16::try_from(count.min(most)).unwrap_or(u16::MAX)
}

const PACE_SECONDS: u64 = 10;
const KEYS_SHOWN: usize = 12;
const REFUSALS_SHOWN: usize = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::admin::status::{Fill, Latency, Listening, Quota, Refused};

    fn status(second: u64) -> Status {
        let count = |word: &str, count: u64| (word.to_owned(), count);
        let key = |key: &str, state: &str, left: u64, refusal: Option<&str>| Key {
            key: key.to_owned(),
            lease: state.to_owned(),
            lease_left_ms: left,
            refusal: refusal.map(str::to_owned),
            entries: 13,
            ..Key::default()
        };
        Status {
            version: "0.1.0".to_owned(),
            at: "2026-01-04T12:00:00Z".parse().unwrap(),
            uptime_ms: 7_200_000 + second * 1000,
            memory: "memfd_secret".to_owned(),
            cache: Fill { entries: 26, capacity: 100_000, evictions: 0 },
            requests: BTreeMap::from([count("ok", 1000 * second), count("key_disabled", 5 * second)]),
            latency: Latency { bounds_us: vec![10, 100], counts: vec![0, 1005 * second, 1005 * second] },
            listeners: vec![Listening { connections: 3, max_connections: 1024, in_flight: 1, ..Listening::default() }],
            upstreams: vec![Upstream {
                name: "hangzhou".to_owned(),
                credentials: true,
                health: "answering".to_owned(),
                failure: Some("timed_out".to_owned()),
                decrypts: BTreeMap::from([count("hit", 999 * second), count("miss", second)]),
                attempts: BTreeMap::from([count("ok", second)]),
                latency: Latency { bounds_us: vec![10_000, 25_000], counts: vec![0, second, second] },
                quotas: vec![Quota {
                    quota: "cryptography".to_owned(),
                    limit: 1000,
                    waiting: BTreeMap::from([count("call", 2)]),
                    ..Quota::default()
                }],
                refusals: vec![Refused {
                    at: "2026-01-04T11:59:57Z".parse().unwrap(),
                    times: 5,
                    caller: "ack".to_owned(),
                    action: "Decrypt".to_owned(),
                    key: None,
                    why: "key_disabled (409 Rejected.Disabled, request r\u{1b}[1)".to_owned(),
                }],
                keys: vec![
                    key("key-hzz62f", "serving", 23_400, None),
                    key("key-hzz77a", "refused", 0, Some("key_disabled (409 Rejected.Disabled, request r-1)")),
                ],
                ..Upstream::default()
            }],
            ..Status::default()
        }
    }

    fn drawn(course: &Course, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, course)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_picture_shows_rates_leases_health_and_refusals_with_the_worst_first() {
        let mut course = Course::default();
        (1..=3).for_each(|second| course.heard(status(second)));
        let expected = "\
kmsproxy 0.1.0  up 2 h  memfd_secret  ready
requests 1005.0/s  failed 5.0/s  from memory 99.9 %  asked of the KMS 1.0/s
latency p50 55 us  p90 91 us  p99 99 us  p99.9 99 us  (last 10 s)
connections 3  in flight 1  cache 26 of 100000 DEKs, 0 thrown out
██
██
██
UPSTREAM         KMS      p50      QUOTA                    LAST FAILURE
hangzhou         answers  17 ms    1000/s, 2 waiting        timed_out

KEY                                  UPSTREAM     DEKS     LEASE
key-hzz77a                           hangzhou     13       REFUSED: key_disabled (409 Rejected.Disabled, reque
key-hzz62f                           hangzhou     13       serving for 23.4 s more

REFUSED  TIMES   CALLER           ACTION           WHY
3 s      5       ack              Decrypt          key_disabled (409 Rejected.Disabled, request r?[1)

q ends it";
        assert_eq!(drawn(&course, 110, 18), expected);
    }

    #[test]
    fn a_small_terminal_and_a_daemon_that_is_gone_are_drawn_as_well() {
        let mut course = Course::default();
        course.heard(status(1));
        course.failed(&crate::ctl::Error::Nobody("/run/kmsproxy/admin.sock".into()));
        let picture = drawn(&course, 90, 10);
        let told = "kmsproxy 0.1.0  up 2 h  memfd_secret  NO ANSWER: /run/kmsproxy/admin.sock: nothing listens";
        assert_eq!(picture.lines().next(), Some(told));
        assert_eq!(drawn(&Course::default(), 1, 1), "");
    }
}
