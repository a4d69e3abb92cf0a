//! Configuration: every text is read or has mistakes, each with its place and remedy and none with a secret in it; and
//! what is printed of one that is read is read to the same.
#![no_main]

use std::path::Path;

use kmsproxy::config::{Config, Environment, Mistakes, Place, understand};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts::of(input);
    let text = parts.text();
    let overrides: Vec<String> = std::iter::from_fn(|| parts.optional()).take(3).map(str::to_owned).collect();
    match read(text, &overrides) {
        Ok(config) => {
            let printed = config.to_toml().expect("it can be printed");
            let again = read(&printed, &[]).unwrap_or_else(|mistakes| panic!("{printed}\n{mistakes}"));
            assert_eq!(again.to_toml().expect("it can be printed"), printed);
            if overrides.is_empty() {
                shaped(&toml(text), &toml(&printed));
            }
        }
        Err(mistakes) => told(text, &overrides, &mistakes),
    }
});

fn read(text: &str, overrides: &[String]) -> Result<Config, Mistakes> {
    understand(Path::new("k.toml"), text.to_owned(), &Environment::default(), overrides)
}

fn toml(text: &str) -> toml::Value {
    toml::Value::Table(text.parse().expect("it was read"))
}

/// What is a table was written as a table: serde would take the members from an array, by their order.
fn shaped(written: &toml::Value, read: &toml::Value) {
    match (written, read) {
        (toml::Value::Table(written), toml::Value::Table(read)) => {
            written
                .iter()
                .filter_map(|(name, value)| Some((value, read.get(name)?)))
                .for_each(|(one, other)| shaped(one, other));
        }
        (toml::Value::Array(written), toml::Value::Array(read)) => {
            written.iter().zip(read).for_each(|(one, other)| shaped(one, other));
        }
        (written, read) => assert!(!read.is_table(), "{written} was taken for {read}"),
    }
}

fn told(text: &str, overrides: &[String], mistakes: &Mistakes) {
    assert!(!mistakes.list().is_empty(), "neither read nor refused");
    let lines = text.split('\n').count();
    // A canary counts where it is a value; names of settings are told.
    let canary = text.parse::<toml::Table>().is_ok_and(|table| !named(&table))
        && !overrides.iter().any(|set| set.contains(CANARY));
    for mistake in mistakes.list() {
        match &mistake.place {
            Place::Line(_, line, column) => assert!((1..=lines).contains(line) && *column > 0, "{mistake}"),
            Place::Flag(_) => assert!(!overrides.is_empty(), "{mistake}"),
            Place::File(_) => {}
            Place::Variable(_) => panic!("there are no variables: {mistake}"),
        }
        assert!(!mistake.problem.is_empty() && !mistake.remedy.is_empty(), "{mistake}");
        assert!(!canary || !mistake.to_string().contains(CANARY), "{mistake}");
    }
}

/// Whether the canary is the name of a setting somewhere, or anything but a value beside the name of a secret.
fn named(table: &toml::Table) -> bool {
    table.iter().any(|(name, value)| match value {
        _ if name.contains(CANARY) => true,
        toml::Value::String(text) => text.contains(CANARY) && name != "secret",
        toml::Value::Table(table) => named(table),
        toml::Value::Array(items) => {
            items.iter().any(|item| named(&toml::Table::from_iter([(String::new(), item.clone())])))
        }
        _ => false,
    })
}

const CANARY: &str = "CANARY";
