//! Histories made up, an event at a time. Instants are milliseconds.

use super::checker::history::{Decision, Grant, Heard, History, OK, Policy, Told};

pub(crate) struct Tale {
    pub(crate) history: History,
}

pub(crate) fn tale() -> Tale {
    Tale { history: History::default() }
}

pub(crate) fn grant(share: &str, actions: &[&str], keys: &[&str]) -> Grant {
    let owned = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect();
    Grant { share: share.to_owned(), actions: owned(actions), keys: owned(keys) }
}

impl Tale {
    pub(crate) fn rules(mut self, from: u64, grants: &[(&str, Grant)]) -> Self {
        let grants = grants.iter().map(|(name, grant)| ((*name).to_owned(), grant.clone())).collect();
        self.history.policies.push(Policy { from_ns: ms(from), grants });
        self
    }

    pub(crate) fn allows(self, at: u64, ciphertext: &str) -> Self {
        self.allows_by(at, ciphertext, KEY)
    }

    pub(crate) fn allows_by(mut self, at: u64, ciphertext: &str, key: &str) -> Self {
        let mut decision = decision(at, "Decrypt", OK);
        decision.key = Some(key.to_owned());
        decision.version = Some("1".to_owned());
        decision.ciphertext = Some(ciphertext.to_owned());
        decision.plaintext = Some(plain(ciphertext));
        self.history.decisions.push(decision);
        self
    }

    pub(crate) fn allows_in(self, at: u64, ciphertext: &str, context: &str) -> Self {
        let mut tale = self.allows(at, ciphertext);
        tale.history.decisions.last_mut().unwrap().context = Some(context.to_owned());
        tale
    }

    pub(crate) fn refuses(mut self, at: u64, ciphertext: &str, outcome: &str) -> Self {
        let mut decision = decision(at, "Decrypt", outcome);
        decision.ciphertext = Some(ciphertext.to_owned());
        self.history.decisions.push(decision);
        self
    }

    pub(crate) fn changes(mut self, at: u64, action: &str) -> Self {
        self.history.decisions.push(decision(at, action, OK));
        self
    }

    pub(crate) fn makes(mut self, at: u64, action: &str, ciphertext: &str) -> Self {
        let mut decision = decision(at, action, OK);
        decision.ciphertext = Some(ciphertext.to_owned());
        decision.plaintext = (action == "GenerateDataKey").then(|| plain(ciphertext));
        self.history.decisions.push(decision);
        self
    }

    pub(crate) fn tells(mut self, caller: &str, sent: u64, received: u64, ciphertext: &str) -> Self {
        let mut told = told(caller, sent, received, ciphertext, OK);
        told.plaintext = Some(plain(ciphertext));
        self.history.told.push(told);
        self
    }

    pub(crate) fn tells_in(self, caller: &str, sent: u64, received: u64, ciphertext: &str, context: &str) -> Self {
        let mut tale = self.tells(caller, sent, received, ciphertext);
        tale.history.told.last_mut().unwrap().context = Some(context.to_owned());
        tale
    }

    pub(crate) fn tells_no(mut self, caller: &str, sent: u64, received: u64, ciphertext: &str, outcome: &str) -> Self {
        self.history.told.push(told(caller, sent, received, ciphertext, outcome));
        self
    }

    /// As seen at the proxy.
    pub(crate) fn releases(self, caller: &str, sent: u64, released: u64, ciphertext: &str) -> Self {
        let mut tale = self.tells(caller, sent, released, ciphertext);
        tale.history.told.last_mut().unwrap().released_ns = Some(ms(released));
        tale
    }

    pub(crate) fn given(mut self, caller: &str, action: &'static str, sent: u64, received: u64, made: &str) -> Self {
        let mut told = told(caller, sent, received, made, OK);
        told.action = action;
        told.plaintext = (action == "GenerateDataKey").then(|| plain(made));
        self.history.told.push(told);
        self
    }

    /// For `share`, or for nobody where that is empty.
    pub(crate) fn hears(mut self, share: &str, sent: u64, received: u64, ciphertext: &str) -> Self {
        let mut heard = heard(share, sent, received, ciphertext, OK);
        heard.key = Some(KEY.to_owned());
        self.history.heard.push(heard);
        self
    }

    pub(crate) fn hears_no(mut self, share: &str, sent: u64, received: u64, ciphertext: &str, outcome: &str) -> Self {
        self.history.heard.push(heard(share, sent, received, ciphertext, outcome));
        self
    }
}

fn decision(at: u64, action: &str, outcome: &str) -> Decision {
    Decision {
        at_ns: ms(at),
        action: action.to_owned(),
        identity: None,
        key: Some(KEY.to_owned()),
        version: None,
        context: None,
        ciphertext: None,
        plaintext: None,
        outcome: outcome.to_owned(),
    }
}

fn told(caller: &str, sent: u64, received: u64, ciphertext: &str, outcome: &str) -> Told {
    Told {
        caller: caller.to_owned(),
        action: "Decrypt",
        sent_ns: ms(sent),
        received_ns: ms(received),
        key: (outcome == OK).then(|| KEY.to_owned()),
        ciphertext: Some(ciphertext.to_owned()),
        outcome: outcome.to_owned(),
        ..Told::default()
    }
}

fn heard(share: &str, sent: u64, received: u64, ciphertext: &str, outcome: &str) -> Heard {
    Heard {
        share: (!share.is_empty()).then(|| share.to_owned()),
        action: "Decrypt",
        sent_ns: ms(sent),
        received_ns: ms(received),
        ciphertext: Some(ciphertext.to_owned()),
        outcome: outcome.to_owned(),
        ..Heard::default()
    }
}

fn plain(ciphertext: &str) -> String {
    format!("plain {ciphertext}")
}

const fn ms(instant: u64) -> u64 {
    instant * 1_000_000
}

const KEY: &str = "key";
