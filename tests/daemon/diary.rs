//! What clients asked and what they were told, and when, by the clock on which the emulator writes down its decisions.
#![allow(dead_code, reason = "not every test that has a client keeps a diary")]

use std::sync::{Arc, Mutex};

use kmsproxy::clock::{Clock, Moment, System};

use super::Outcome;

/// Every call of all clients of a scene, also those that were given up.
#[derive(Default)]
pub(crate) struct Diary(Mutex<Vec<Entry>>);

/// One call.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) caller: &'static str,
    pub(crate) action: String,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) sent_ns: u64,
    /// What came, and when.
    pub(crate) told: Option<(u64, Outcome)>,
}

/// A diary, and whose calls are written into it from here.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) diary: Arc<Diary>,
    pub(crate) caller: &'static str,
}

/// A call that waits for its answer.
pub(crate) struct Asked {
    diary: Arc<Diary>,
    at: usize,
}

impl Diary {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }
}

impl Page {
    /// To be called before anything is sent.
    pub(crate) fn asks(&self, action: &str, parameters: &[(&str, &str)]) -> Asked {
        let parameters = parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut entries = self.diary.0.lock().unwrap();
        let (caller, action) = (self.caller, action.to_owned());
        entries.push(Entry { caller, action, parameters, sent_ns: now(), told: None });
        Asked { diary: Arc::clone(&self.diary), at: entries.len() - 1 }
    }
}

impl Asked {
    pub(crate) fn hears(self, outcome: &Outcome) {
        let received = now();
        self.diary.0.lock().unwrap()[self.at].told = Some((received, outcome.clone()));
    }
}

/// The clock of both.
pub(crate) fn now() -> u64 {
    System.now().since(Moment::BOOT).as_nanos().try_into().unwrap()
}
