//! When something was recorded, on both clocks.

use jiff::Timestamp;

use crate::clock::{Clock, Moment};

/// Both clocks, read in one breath: what the boot clock said then is told by the wall clock of now.
#[derive(Debug)]
pub struct Clocks {
    now: Moment,
    wall: Timestamp,
    /// A second since 1970, and its text: most records are of the same second as the one before.
    second: (i64, String),
}

impl Clocks {
    /// Reads `clock`.
    #[must_use]
    pub fn read(clock: &dyn Clock) -> Self {
        Self { now: clock.now(), wall: clock.wall(), second: (-1, String::new()) }
    }

    /// The boot clock's time.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// Appends when `at` was, as two members of a line, each after a comma: `time`, for people, in RFC 3339 in UTC with
    /// microseconds, and `boot_us`, by the clock that nobody can set, in microseconds since the machine's boot.
    pub fn stamp(&mut self, at: Moment, line: &mut Vec<u8>) {
        line.extend_from_slice(br#","time":""#);
        match self.since_1970(at) {
            Some((second, nanosecond)) => {
                if second != self.second.0 {
                    self.second = (second, up_to_fraction(second));
                }
                line.extend_from_slice(self.second.1.as_bytes());
                line.extend_from_slice(&six_digits(nanosecond / 1000));
                line.push(b'Z');
            }
            None => line.extend_from_slice(self.text(at).as_bytes()),
        }
        line.extend_from_slice(br#"","boot_us":"#);
        // Writing a number to memory cannot fail.
        let _ = serde_json::to_writer(line, &micros(at));
    }

    /// Seconds and nanoseconds; none before 1970, where they would be negative.
    fn since_1970(&self, at: Moment) -> Option<(i64, u32)> {
        let ago = self.now.since(at);
        let second = self.wall.as_second().checked_sub(i64::try_from(ago.as_secs()).ok()?)?;
        let nanosecond = i64::from(self.wall.subsec_nanosecond()) - i64::from(ago.subsec_nanos());
        let (second, nanosecond) =
            if nanosecond < 0 { (second - 1, nanosecond + 1_000_000_000) } else { (second, nanosecond) };
        Some((second, u32::try_from(nanosecond).ok()?)).filter(|_| second >= 0)
    }

    fn text(&self, at: Moment) -> String {
        let wall = self.wall.saturating_sub(self.now.since(at)).unwrap_or(Timestamp::MIN);
        format!("{wall:.6}")
    }
}

/// `2026-01-02T03:04:05.`
fn up_to_fraction(second: i64) -> String {
    let mut text = format!("{:.0}", Timestamp::from_second(second).unwrap_or(Timestamp::MIN));
    text.pop();
    text.push('.');
    text
}

fn six_digits(mut number: u32) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

pub(super) fn micros(at: Moment) -> u64 {
    u64::try_from(at.since(Moment::BOOT).as_micros()).unwrap_or(u64::MAX)
}
