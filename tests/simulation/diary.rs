//! What is seen of a simulation: what clients are told, what the proxy lets go and what it hears of the KMS.

use std::sync::{Arc, Mutex};

use kmsproxy::auth::Caller;
use kmsproxy::clock::Deadline;
use kmsproxy::engine::{Engine, Respond};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Answer, Call, Context, KeyState, Reply};
use kmsproxy::policy::{Held, Permit};
use kmsproxy::upstream::local::Digest;
use kmsproxy::upstream::{Asking, Upstream};

use super::clock::Simulated;
use super::oracle::history::{Heard, OK, Told};

#[derive(Debug, Default)]
pub(crate) struct Diary {
    pub(crate) told: Mutex<Vec<Told>>,
    pub(crate) heard: Mutex<Vec<Heard>>,
}

/// Where the proxy lets answers go.
pub(crate) struct Gate {
    pub(crate) engine: Arc<Engine>,
    pub(crate) diary: Arc<Diary>,
    pub(crate) clock: Arc<Simulated>,
}

impl Respond for Gate {
    async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        let mut told = Telling::new(&self.diary, &self.clock, asked(caller, &call));
        let answer = self.engine.respond(caller, call, deadline).await;
        match &answer {
            Ok(answer) => learn(&mut told.told, &answer.reply),
            Err(fault) => fault.kind().label().clone_into(&mut told.told.outcome),
        }
        answer
    }
}

/// One call, written down when it ends, however it ends.
pub(crate) struct Telling<'a> {
    diary: &'a Diary,
    clock: &'a Simulated,
    pub(crate) told: Told,
}

impl<'a> Telling<'a> {
    pub(crate) fn new(diary: &'a Diary, clock: &'a Simulated, mut told: Told) -> Self {
        told.sent_ns = clock.ns();
        "abandoned".clone_into(&mut told.outcome);
        Self { diary, clock, told }
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        told.received_ns = self.clock.ns();
        told.released_ns = told.released_ns.map(|_| told.received_ns);
        self.diary.told.lock().unwrap().push(told);
    }
}

fn asked(caller: &Caller, call: &Call) -> Told {
    Told {
        caller: caller.name().as_str().to_owned(),
        action: call.action().name(),
        released_ns: Some(0),
        key: call.key().map(|key| key.bare().to_owned()),
        context: context(call).map(|context| Digest::of_context(context).to_string()),
        ciphertext: given(call),
        ..Told::default()
    }
}

fn learn(told: &mut Told, reply: &Reply) {
    OK.clone_into(&mut told.outcome);
    let key = match reply {
        Reply::Decrypted(reply) => {
            told.plaintext = Some(Digest::of(reply.plaintext.expose()).to_string());
            Some(&reply.key)
        }
        Reply::DataKey(reply) => {
            told.plaintext = reply.plaintext.as_ref().map(|plaintext| Digest::of(plaintext.expose()).to_string());
            told.ciphertext = Some(Digest::of(reply.ciphertext.bytes()).to_string());
            Some(&reply.key)
        }
        Reply::Encrypted(reply) => {
            told.ciphertext = Some(Digest::of(reply.ciphertext.bytes()).to_string());
            Some(&reply.key)
        }
        Reply::Document(_) => None,
    };
    told.key = key.map(|key| key.as_str().to_owned()).or_else(|| told.key.take());
}

/// What the proxy hears of the KMS, retries and all taken as one question.
#[derive(Debug)]
pub(crate) struct Ear<U> {
    pub(crate) upstream: U,
    pub(crate) diary: Arc<Diary>,
    pub(crate) clock: Arc<Simulated>,
}

impl<U: Upstream> Upstream for Ear<U> {
    fn ask<'a>(&'a self, permit: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a> {
        let mut question = Question::new(self, permit, call);
        Box::pin(async move {
            let answer = self.upstream.ask(permit, call, deadline).await;
            question.is_answered(&answer);
            answer
        })
    }

    fn identity(&self) -> Arc<str> {
        self.upstream.identity()
    }
}

struct Question<'a> {
    diary: &'a Diary,
    clock: &'a Simulated,
    heard: Heard,
}

impl<'a> Question<'a> {
    fn new<U>(ear: &'a Ear<U>, permit: &Permit, call: &Call) -> Self {
        let shared = matches!(call, Call::Decrypt(call) if call.shareable());
        let heard = Heard {
            share: permit.share().filter(|_| shared).map(|share| share.as_str().to_owned()),
            action: call.action().name(),
            sent_ns: ear.clock.ns(),
            key: call.key().and_then(|key| key.id()).map(str::to_owned),
            context: context(call).map(|context| Digest::of_context(context).to_string()),
            ciphertext: given(call),
            outcome: "abandoned".to_owned(),
            ..Heard::default()
        };
        Self { diary: &ear.diary, clock: &ear.clock, heard }
    }

    fn is_answered(&mut self, answer: &Result<Held, Fault>) {
        let described = answer.as_ref().ok().and_then(Held::described).map(|(_, state)| *state);
        let outcome = match (answer, described) {
            (Ok(_), Some(KeyState::Disabled)) => Kind::KeyDisabled.label(),
            (Ok(_), Some(KeyState::PendingDeletion)) => Kind::KeyPendingDeletion.label(),
            (Ok(_), Some(KeyState::PendingImport)) => Kind::KeyPendingImport.label(),
            (Ok(_), Some(KeyState::Unavailable)) => Kind::KeyUnavailable.label(),
            (Ok(_), Some(KeyState::Enabled) | None) => OK,
            (Err(fault), _) => fault.kind().label(),
        };
        outcome.clone_into(&mut self.heard.outcome);
        if let Some(key) = answer.as_ref().ok().and_then(Held::key) {
            self.heard.key = Some(key.as_str().to_owned());
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut heard = std::mem::take(&mut self.heard);
        heard.received_ns = self.clock.ns();
        self.diary.heard.lock().unwrap().push(heard);
    }
}

fn context(call: &Call) -> Option<&Context> {
    match call {
        Call::Decrypt(call) => call.context.as_ref(),
        Call::Encrypt(call) => call.context.as_ref(),
        Call::GenerateDataKey(call) => call.context.as_ref(),
        Call::Read(_) => None,
    }
}

fn given(call: &Call) -> Option<String> {
    match call {
        Call::Decrypt(call) => Some(Digest::of(call.ciphertext.bytes()).to_string()),
        Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_) => None,
    }
}
