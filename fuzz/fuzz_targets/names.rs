//! Small grammars of the outside: names of keys and what a rule covers, listening addresses, `WATCHDOG_*`.
#![no_main]

use std::time::Duration;

use kmsproxy::config::Address;
use kmsproxy::kms::{Action, KeyName, bare};
use kmsproxy::policy::Rule;
use kmsproxy::systemd::watchdog_period;
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts::of(input);
    let (name, other, address, microseconds) = (parts.text(), parts.text(), parts.text(), parts.text());
    named(name);
    covered(name, other);
    if let Ok(parsed) = Address::parse(address) {
        assert_eq!(Address::parse(&parsed.to_string()).as_ref(), Ok(&parsed));
        assert!(!matches!(parsed, Address::Tcp(_)) || address.contains(':'));
    }
    let period = watchdog_period(&|name| (name == "WATCHDOG_USEC").then(|| microseconds.to_owned()));
    let digits = microseconds.strip_prefix('+').unwrap_or(microseconds);
    let expected = digits.parse::<u64>().ok().filter(|_| digits.chars().all(|digit| digit.is_ascii_digit()));
    assert_eq!(period, expected.filter(|limit| *limit > 0).map(|limit| Duration::from_micros(limit) / 2));
});

/// `acs:kms:REGION:ACCOUNT:key/ID` means ID, and nothing else means anything but itself.
fn named(text: &str) {
    let name = KeyName::new(text);
    let fields: Vec<_> = text.split(':').collect();
    let expected = match fields[..] {
        ["acs", "kms", _, _, resource] => resource.strip_prefix("key/").unwrap_or(text),
        _ => text,
    };
    assert_eq!(name.bare(), expected);
    let plain = !expected.contains('/') && !expected.contains(':');
    assert_eq!(name.id(), plain.then_some(expected));
    assert_eq!(name.is_id(), plain && expected == text);
}

fn covered(listed: &str, key: &str) {
    let rule = Rule { actions: vec![Action::Decrypt], keys: vec![listed.to_owned()] };
    assert_eq!(rule.covers(Action::Decrypt, key), listed == "*" || bare(listed) == key);
    assert!(!rule.covers(Action::Encrypt, key));
}
