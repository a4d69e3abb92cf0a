//! The table as SEMANTICS.md has it, made of what the code says. One line for answers with equal consequences.

use std::fmt::Write as _;
use std::time::Duration;

use kmsproxy::fault::{About, Consequence, Effect, Fault, Retry};
use kmsproxy::kms::Action;
use kmsproxy::wire::kubernetes::refusal::{Refusal, Subject};

use super::codes::{CODES, silence};

pub(crate) fn table() -> String {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let said = CODES.iter().map(|code| (label(code.shown, code.code), columns(&code.said_to(Action::Decrypt))));
    let unsaid = silence().into_iter().map(|(shown, fault, ..)| (shown.to_owned(), columns(&fault)));
    for (shown, columns) in said.chain(unsaid) {
        match rows.iter_mut().find(|(other, _)| *other == columns) {
            Some((_, all)) if all.contains(&shown) => {}
            Some((_, all)) => all.push(shown),
            None => rows.push((columns, vec![shown])),
        }
    }
    let mut table = HEAD.to_owned();
    for (columns, all) in rows {
        writeln!(table, "| {} | {columns} |", all.join(", ")).unwrap();
    }
    table
}

fn label(shown: &str, code: &str) -> String {
    if shown.is_empty() { format!("`{code}`") } else { shown.to_owned() }
}

fn columns(fault: &Fault) -> String {
    let Consequence { evidence, retry, remembered } = fault.consequence();
    let effect = |about| effect(Effect::of(evidence, about));
    let about = [About::Scope, About::Stranger, About::Id, About::Name, About::List].map(effect);
    let subject = Subject { listener: "l", caller: None, key: None };
    let grpc = Refusal::of(fault, &subject).code.name();
    format!("{} | {} | {} | {grpc}", about.join(" | "), asked_again(retry), remembered.map_or("no".to_owned(), span))
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::DoubtAll => "**notice**",
        Effect::Nothing => "–",
        Effect::ProbeAll => "probe",
        Effect::RefuseKey => "**key refused**",
        Effect::RefuseScope => "**scope refused**",
        Effect::RefuseScopeProbeAll => "**scope refused**, probe",
        Effect::Silence => "silence",
        Effect::SuspendAll => "**all suspended**",
        Effect::SuspendScope => "**scope suspended**",
    }
}

fn asked_again(retry: Retry) -> &'static str {
    match retry {
        Retry::Later => "later",
        Retry::Never => "never",
        Retry::Renewed => "once, as renewed",
    }
}

fn span(span: Duration) -> String {
    format!("{} s", span.as_secs_f64())
}

const HEAD: &str = "\
| answer of the KMS | Decrypt, its key known; probe | Decrypt, its key unknown | a key by id | a key by alias or ARN \
| no key | asked again | remembered | kube-apiserver sees |
|---|---|---|---|---|---|---|---|---|
";
