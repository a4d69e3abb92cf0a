//! What kmsproxy should do, told as history: what the KMS said and when, and nothing else is remembered. Every answer is
//! looked up in it anew. No type or function of the daemon is used.

use std::ops::RangeInclusive;

/// Seconds of a lease, of an entry's age, between probes.
pub(crate) const LEASE: u64 = 60;
pub(crate) const AGE: u64 = 100;
const PROBE: u64 = 10;
/// At which ages a refresh may be due or not: between a fifth of the limit and nine tenths of it, each at its own.
const PERHAPS: RangeInclusive<u64> = 20..=89;
const STEP: u64 = 5;

pub(crate) const CONTEXTS: u8 = 3;
pub(crate) const BLOBS: u8 = 4;
/// A ciphertext that no key made.
pub(crate) const GARBAGE: u8 = BLOBS;

/// A key and a context; the first context is none.
pub(crate) type Scope = (u8, u8);
/// Who asks for what, in which context.
pub(crate) type Asked = (u8, u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Forbidden,
    Invalid,
    KeyDisabled,
    NoPermission,
    Throttled,
    Unreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    All,
    /// The first key only.
    One,
    None,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Advance(u64),
    Bar(u8, bool),
    Decrypt(Asked),
    Disable(u8, bool),
    Encrypt(u8, u8),
    Policy(u8, Grant),
    Refresh,
    Silence(Option<Word>),
    WallClock,
    Suspend,
    Switch,
    Turn,
}

#[derive(Clone, Debug)]
enum Event {
    Allowed(Scope),
    Failed(Asked, Word),
    Filled(Asked),
    Forgotten,
    Hurried,
    Noticed,
    Probed(Scope),
    Refused(u8, Option<u8>, Word),
    Relented(Scope),
    Silent(Scope),
    Suspended,
    Tried(Scope),
}

/// The history, and what the next step should bring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naive {
    now: u64,
    log: Vec<(u64, Event)>,
    disabled: [bool; 2],
    barred: [bool; 2],
    silent: Option<Word>,
    grants: [Option<Grant>; 2],
    looked: u64,
    stepped: bool,
    hurried: Option<u64>,
    doubted: Option<u64>,
    /// What the last step was answered, where it was a question.
    pub(crate) answer: Option<Result<u8, Word>>,
    /// How often the KMS has been asked so far.
    pub(crate) calls: usize,
}

impl Naive {
    pub(crate) fn take(&mut self, step: &Step) {
        self.answer = None;
        match *step {
            Step::Advance(span) => self.now += span,
            Step::Bar(key, barred) => self.barred[usize::from(key)] = barred,
            Step::Decrypt(asked) => self.answer = Some(self.decrypt(asked).map(|()| asked.1)),
            Step::Disable(key, disabled) => self.disabled[usize::from(key)] = disabled,
            Step::Encrypt(who, key) => self.answer = Some(self.encrypt(who, key).map(|()| GARBAGE)),
            Step::Policy(who, grant) => self.grants[usize::from(who)] = Some(grant),
            Step::Refresh => self.refresh(),
            Step::Silence(word) => self.silent = word,
            Step::WallClock => self.stepped = true,
            Step::Suspend => self.note([Event::Suspended, Event::Hurried]),
            Step::Switch => {
                self.look();
                self.note([Event::Forgotten, Event::Hurried]);
                self.turn();
            }
            Step::Turn => {
                self.look();
                self.turn();
            }
        }
    }

    /// Whether chance leaves no doubt what a refresh does.
    pub(crate) fn may_refresh(&self) -> bool {
        let due = self
            .entries()
            .filter(|&asked| self.serves(asked) && self.age(asked).is_some_and(|age| age >= *PERHAPS.start()));
        let due: Vec<_> = due.collect();
        let sure = due.iter().all(|&asked| self.age(asked).is_some_and(|age| !PERHAPS.contains(&age)));
        sure && (self.silent.is_none() || due.len() <= 1)
    }

    fn decrypt(&mut self, asked: Asked) -> Result<(), Word> {
        let (who, blob, context) = asked;
        let (scope, covered) = ((blob % 2, context), self.covers(who, blob % 2));
        if self.grants[usize::from(who)] == Some(Grant::None) {
            return Err(Word::Forbidden);
        }
        self.look();
        let kept = self.last(|event| matches!(event, Event::Filled(other) if *other == asked)).is_some();
        if kept && !covered {
            return Err(Word::Forbidden);
        }
        if self.serves(asked) {
            return Ok(());
        }
        let failed = self.log.iter().rev().take_while(|(at, _)| *at == self.now).find_map(|(_, event)| match event {
            Event::Failed(other, word) if *other == asked => Some(Some(*word)),
            Event::Filled(other) if *other == asked => Some(None),
            _ => None,
        });
        if let Some(word) = failed.flatten() {
            return Err(word);
        }
        if let Some(word) = self.refused(scope).filter(|_| kept && !self.tries(scope)) {
            return Err(word);
        }
        self.ask(asked, kept)?;
        if covered { Ok(()) } else { Err(Word::Forbidden) }
    }

    fn ask(&mut self, asked: Asked, kept: bool) -> Result<(), Word> {
        let (scope, (_, blob, _)) = ((asked.1 % 2, asked.2), asked);
        self.calls += 1;
        let said = if self.silent.is_none() && blob == GARBAGE { Err(Word::Invalid) } else { self.says(scope.0, true) };
        match said {
            Ok(()) => self.note([Event::Allowed(scope), Event::Filled(asked)]),
            Err(word) => {
                self.hear(scope, word, kept);
                self.note([Event::Failed(asked, word)]);
            }
        }
        said
    }

    fn encrypt(&mut self, who: u8, key: u8) -> Result<(), Word> {
        if !self.covers(who, key) {
            return Err(Word::Forbidden);
        }
        if self.refused((key, 0)) == Some(Word::KeyDisabled) && !self.tries((key, 0)) {
            return Err(Word::KeyDisabled);
        }
        self.calls += 1;
        match self.says(key, false) {
            Ok(()) if self.refused((key, 0)).is_some() => self.note([Event::Relented((key, 0))]),
            Err(Word::KeyDisabled) => self.note([Event::Refused(key, None, Word::KeyDisabled)]),
            Ok(()) | Err(_) => {}
        }
        self.says(key, false)
    }

    fn says(&self, key: u8, decrypts: bool) -> Result<(), Word> {
        match (self.silent, self.disabled[usize::from(key)], self.barred[usize::from(key)] && decrypts) {
            (Some(word), ..) => Err(word),
            (None, true, _) => Err(Word::KeyDisabled),
            (None, false, true) => Err(Word::NoPermission),
            (None, false, false) => Ok(()),
        }
    }

    fn hear(&mut self, scope: Scope, word: Word, known: bool) {
        match (word, known) {
            (Word::KeyDisabled, true) => self.note([Event::Refused(scope.0, None, word)]),
            (Word::NoPermission, true) => self.note([Event::Refused(scope.0, Some(scope.1), word)]),
            (Word::Throttled | Word::Unreachable, true) => self.note([Event::Silent(scope)]),
            (Word::KeyDisabled, false) if self.hurried.is_none_or(|at| self.now - at >= PROBE / 2) => {
                self.hurried = Some(self.now);
                self.note([Event::Hurried]);
            }
            (Word::NoPermission, false) if self.doubted.is_none_or(|at| self.now - at >= PROBE) => {
                self.doubted = Some(self.now);
                self.note([Event::Noticed, Event::Hurried]);
            }
            _ => {}
        }
    }

    /// Once in an instant, the clocks are compared.
    fn look(&mut self) {
        if self.now > self.looked {
            self.looked = self.now;
            if std::mem::take(&mut self.stepped) {
                self.note([Event::Suspended, Event::Hurried]);
            }
        }
    }

    fn turn(&mut self) {
        let scopes = (0..2).flat_map(|key| (0..CONTEXTS).map(move |context| (key, context)));
        for scope in scopes.filter(|&scope| self.is_due(scope)).collect::<Vec<_>>() {
            self.calls += 1;
            self.note([Event::Probed(scope)]);
            match self.says(scope.0, true) {
                Ok(()) => self.note([Event::Allowed(scope)]),
                Err(word) => self.hear(scope, word, true),
            }
        }
    }

    fn is_due(&self, scope: Scope) -> bool {
        let asked = |event: &Event| matches!(event, Event::Allowed(it) | Event::Probed(it) if *it == scope);
        let holds = self.entries().any(|(_, blob, context)| (blob % 2, context) == scope);
        let Some(last) = self.last(asked).filter(|_| holds) else { return false };
        let sooner = self.log[last..].iter().any(|(at, event)| match event {
            Event::Hurried => true,
            Event::Silent(it) => *it == scope && self.now >= at + PROBE / 5,
            _ => false,
        });
        sooner || self.now - self.log[last].0 >= PROBE
    }

    fn refresh(&mut self) {
        for asked in self.entries().filter(|&asked| self.age(asked).is_some_and(|age| age >= 90)).collect::<Vec<_>>() {
            if self.serves(asked) && self.ask(asked, true).is_err() && self.silent.is_some() {
                break;
            }
        }
        self.now += STEP;
    }

    fn covers(&self, who: u8, key: u8) -> bool {
        match self.grants[usize::from(who)].unwrap_or(Grant::All) {
            Grant::All => true,
            Grant::One => key == 0,
            Grant::None => false,
        }
    }

    /// Whether it is cached, young enough, from after the last refusal of its scope, and the lease is in force.
    fn serves(&self, asked: Asked) -> bool {
        let scope = (asked.1 % 2, asked.2);
        let Some(filled) = self.last(|event| matches!(event, Event::Filled(it) if *it == asked)) else { return false };
        let Some(allowed) = self.last(|event| matches!(event, Event::Allowed(it) if *it == scope)) else {
            return false;
        };
        let lost = |event: &Event| matches!(event, Event::Forgotten) || refuses(event, scope);
        let noticed = self.log[allowed..].iter().find(|(_, event)| matches!(event, Event::Noticed));
        if noticed.is_some_and(|(at, _)| self.now >= at + PROBE / 5) {
            return false;
        }
        let closed = |event: &Event| matches!(event, Event::Suspended) || lost(event);
        let young = self.now < self.log[filled].0 + AGE && self.now < self.log[allowed].0 + LEASE;
        young && self.last(lost).is_none_or(|at| at < filled) && self.last(closed).is_none_or(|at| at < allowed)
    }

    /// In which words the KMS refused and has not relented.
    fn refused(&self, scope: Scope) -> Option<Word> {
        let relents = |event: &Event| matches!(event, Event::Allowed(it) | Event::Relented(it) if *it == scope);
        let last = self.last(|event| refuses(event, scope) || relents(event))?;
        match self.log[last].1 {
            Event::Refused(.., word) => Some(word),
            _ => None,
        }
    }

    /// Whether this is the one question in a second that goes up while the scope is refused.
    fn tries(&mut self, scope: Scope) -> bool {
        let tried = self.last(|event| matches!(event, Event::Tried(it) if *it == scope));
        let due = tried.is_none_or(|at| self.log[at].0 < self.now);
        if due {
            self.note([Event::Tried(scope)]);
        }
        due
    }

    fn entries(&self) -> impl Iterator<Item = Asked> + '_ {
        let all = (0..2).flat_map(|who| (0..BLOBS).flat_map(move |blob| (0..CONTEXTS).map(move |it| (who, blob, it))));
        all.filter(|&asked| self.age(asked).is_some())
    }

    fn age(&self, asked: Asked) -> Option<u64> {
        self.last(|event| matches!(event, Event::Filled(it) if *it == asked)).map(|at| self.now - self.log[at].0)
    }

    fn last(&self, is: impl Fn(&Event) -> bool) -> Option<usize> {
        self.log.iter().rposition(|(_, event)| is(event))
    }

    fn note<const N: usize>(&mut self, events: [Event; N]) {
        self.log.extend(events.map(|event| (self.now, event)));
    }
}

fn refuses(event: &Event, scope: Scope) -> bool {
    matches!(event, Event::Refused(key, context, _) if *key == scope.0 && context.is_none_or(|it| it == scope.1))
}
