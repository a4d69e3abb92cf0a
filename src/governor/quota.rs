//! A quota as operators write it.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// How many calls a KMS grants in each second: `"1000/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quota(u32);

impl Quota {
    /// With fewer, there would be nothing left beside what is held back for probes.
    pub const LEAST: Self = Self(5);

    /// `calls` in each second.
    #[must_use]
    pub const fn per_second(calls: u32) -> Self {
        Self(calls)
    }

    /// The calls in each second.
    #[must_use]
    pub const fn calls(self) -> u32 {
        self.0
    }
}

/// What is no quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQuota;

impl FromStr for Quota {
    type Err = NotAQuota;

    fn from_str(text: &str) -> Result<Self, NotAQuota> {
        let calls = text.strip_suffix("/s").filter(|calls| calls.bytes().all(|byte| byte.is_ascii_digit()));
        calls.and_then(|calls| calls.parse().ok()).map(Self).ok_or(NotAQuota)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Quota;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of calls per second, such as \"1000/s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quota, E> {
                text.parse().map_err(|NotAQuota| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_whole_number_of_calls_per_second_and_nothing_else() {
        assert_eq!("1000/s".parse(), Ok(Quota(1000)));
        assert_eq!(serde_json::to_string(&Quota(1000)).unwrap(), "\"1000/s\"");
        for wrong in ["", "/s", "1000", "1000/min", "1e3/s", "-1/s", "+1/s", " 1/s", "1 /s", "1.5/s", "99999999999/s"] {
            assert_eq!(wrong.parse::<Quota>(), Err(NotAQuota), "{wrong}");
        }
    }
}
