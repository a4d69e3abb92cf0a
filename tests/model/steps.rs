//! What may happen next.

use std::time::Duration;

use kmsproxy::fault::{Effect, Evidence, Fault, Kind};
use kmsproxy::lease::{Epoch, Lease};
use stateright::{Model, Property};

use super::design::{Design, Kept, MAX_AGE, Overtaken};
use super::promises;
use super::world::{Answer, Closed, Entry, Flight, Identity, Left, Question, SCOPES, World};

/// A design in a world with these bounds.
#[derive(Clone)]
pub(super) struct Scenario {
    pub(super) design: Design,
    pub(super) callers: u8,
    pub(super) scopes: u8,
    /// The last second.
    pub(super) horizon: u8,
    pub(super) left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The KMS makes up its mind about a question; the answer may take any time.
    Answer(usize, Answer),
    /// The KMS refuses the first identity, or allows it again.
    Bar,
    Disable,
    /// Another key of the upstream is refused.
    Elsewhere,
    Enable,
    /// An answer arrives. `heeded`: a doubt is followed by a suspension at most once a probe interval.
    Land {
        flight: usize,
        heeded: bool,
    },
    /// The watch or a request looks at the clocks.
    Look,
    /// What holds nothing is let go of.
    Reap(usize),
    Send(Question),
    /// Somebody sets the wall clock.
    WallClock,
    /// The machine is suspended for longer than a lease.
    Suspend,
    /// Our credentials are somebody else's from now on.
    Switch,
    Tick,
}

impl Model for Scenario {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.left)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (at, flight) in world.flights.iter().enumerate() {
            match flight.answer {
                None => steps.extend(answers(world, flight).into_iter().map(|answer| Step::Answer(at, answer))),
                Some(Answer::Barred) if !flight.known => {
                    steps.extend([true, false].map(|heeded| Step::Land { flight: at, heeded }));
                }
                Some(_) => steps.push(Step::Land { flight: at, heeded: true }),
            }
        }
        if world.left.questions > 0 && world.flights.len() < FLIGHTS {
            steps.extend([Question::Describe, Question::Encrypt].map(Step::Send));
            for scope in 0..self.scopes {
                steps.extend((0..self.callers).map(|caller| Step::Send(Question::Decrypt { caller, scope })));
                if world.holds(scope.into()) {
                    steps.push(Step::Send(Question::Probe { scope }));
                }
            }
        }
        if world.left.turns > 0 {
            steps.push(if world.kms.disabled.is_some() { Step::Enable } else { Step::Disable });
            steps.push(Step::Bar);
        }
        if world.left.upsets > 0 {
            steps.extend([Step::Elsewhere, Step::WallClock, Step::Suspend]);
            if world.kms.identity == Identity::First {
                steps.push(Step::Switch);
            }
        }
        if world.stepped {
            steps.push(Step::Look);
        }
        if world.now < self.horizon {
            steps.push(Step::Tick);
        }
        let idle = |scope: &usize| {
            let lease = &world.proxy.leases[*scope];
            !world.holds(*scope) && lease.as_ref().is_some_and(|lease| !(*scope == 0 && lease.is_refused()))
        };
        steps.extend((0..SCOPES).filter(idle).map(Step::Reap));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Answer(at, answer) => next.answer(at, answer),
            Step::Bar => next.turn(|next| next.kms.barred = next.kms.barred.xor(Some(next.now))),
            Step::Disable => next.turn(|next| next.kms.disabled = Some(next.now)),
            Step::Elsewhere => next.upset(|next| _ = next.proxy.closings.close()),
            Step::Enable => next.turn(|next| next.kms.disabled = None),
            Step::Land { flight, heeded } => next.land(flight, heeded, &self.design),
            Step::Look => next.look(),
            Step::Reap(scope) => next.proxy.leases[scope] = None,
            Step::Send(question) => next.send(question, &self.design),
            Step::WallClock => next.upset(|next| next.stepped = true),
            Step::Suspend => next.upset(|next| {
                next.now += SUSPENSION;
                next.slept += SUSPENSION;
            }),
            Step::Switch => next.upset(World::switch),
            Step::Tick => next.now += 1,
        }
        // Of two questions on their way neither is the first.
        next.flights
            .sort_by_key(|flight| (flight.question, flight.answer, flight.sent, flight.asked.epoch, flight.known));
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all()
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= self.horizon + SUSPENSION
    }
}

/// What the KMS may answer. It says no more than it knows, may say nothing, and of a key's state what it was.
fn answers(world: &World, flight: &Flight) -> Vec<Answer> {
    let barred = world.kms.barred.is_some() && flight.identity == Identity::First;
    let said = match flight.question {
        Question::Describe if world.kms.disabled.is_some() => {
            return vec![Answer::DescribedDisabled, Answer::DescribedEnabled, Answer::Silence];
        }
        Question::Describe => Answer::DescribedEnabled,
        _ if world.kms.disabled.is_some() => Answer::Disabled,
        // A right to Encrypt is not a right to Decrypt.
        Question::Decrypt { .. } | Question::Probe { .. } if barred => Answer::Barred,
        Question::Decrypt { .. } | Question::Encrypt | Question::Probe { .. } => Answer::Allowed,
    };
    vec![said, Answer::Silence]
}

impl World {
    fn turn(&mut self, change: impl FnOnce(&mut Self)) {
        self.left.turns -= 1;
        change(self);
    }

    fn upset(&mut self, change: impl FnOnce(&mut Self)) {
        self.left.upsets -= 1;
        change(self);
    }

    /// Whether anything names the scope: an entry, or an answer that somebody has not taken yet.
    fn holds(&self, scope: usize) -> bool {
        let places = self.proxy.entries.iter().chain(&self.proxy.landed);
        places.into_iter().any(|places| places[scope].is_some())
    }

    fn send(&mut self, question: Question, design: &Design) {
        self.left.questions -= 1;
        let known = match question {
            Question::Decrypt { caller, scope } => {
                self.proxy.entries[(design.filed)(caller.into())][usize::from(scope)].is_some()
            }
            Question::Describe | Question::Encrypt | Question::Probe { .. } => true,
        };
        let asked = self.proxy.closings.ask((design.clock)(self));
        let (identity, sent) = (self.kms.identity, self.now);
        self.flights.push(Flight {
            question,
            asked,
            identity,
            known,
            answer: None,
            sent,
            overtaken: false,
            refused: false,
        });
    }

    fn answer(&mut self, at: usize, answer: Answer) {
        let flight = &mut self.flights[at];
        flight.answer = Some(answer);
        if answer != Answer::Allowed || !flight.question.is_decrypt() || flight.identity != self.kms.identity {
            return;
        }
        let (scope, sent) = (flight.question.scope(), Some(flight.sent));
        self.truth.allowed[scope] = self.truth.allowed[scope].max(sent);
        if let Question::Decrypt { caller, .. } = flight.question {
            let granted = &mut self.truth.granted[usize::from(caller)][scope];
            *granted = (*granted).max(sent);
        }
    }

    fn land(&mut self, at: usize, heeded: bool, design: &Design) {
        let flight = self.flights.remove(at);
        let scope = flight.question.scope();
        match (flight.answer.expect("only what was answered lands"), flight.question) {
            (Answer::Allowed, Question::Decrypt { caller, .. }) => self.keep(&flight, caller, design),
            (Answer::Allowed, Question::Probe { .. }) => drop(self.consent(&flight, design)),
            (Answer::Allowed, Question::Encrypt) => {
                if let Some(lease) = &mut self.proxy.leases[scope] {
                    (design.encrypted)(lease, flight.asked);
                }
            }
            (Answer::DescribedEnabled, _) => {
                if let Some(lease) = &mut self.proxy.leases[scope] {
                    (design.described)(lease, flight.asked);
                }
            }
            (Answer::DescribedDisabled, _) => self.weigh(&flight, Kind::KeyDisabled, heeded, design),
            (Answer::Disabled, _) => self.weigh(&flight, Kind::KeyDisabled, heeded, design),
            (Answer::Barred, _) => self.weigh(&flight, Kind::NoPermission, heeded, design),
            (Answer::Silence, _) => self.weigh(&flight, Kind::TimedOut, heeded, design),
            (Answer::Allowed, Question::Describe) => unreachable!("Describe is answered with a state"),
        }
    }

    /// As `Scope::renew`: whether the consent counted.
    fn consent(&mut self, flight: &Flight, design: &Design) -> Option<Epoch> {
        let (scope, now) = (flight.question.scope(), (design.clock)(self));
        let birth = self.proxy.closings.birth();
        let lease = self.proxy.leases[scope].get_or_insert(birth);
        let epoch = (design.consent)(lease, flight.asked, now).ok().map(|()| lease.epoch());
        if epoch.is_some() && flight.overtaken {
            self.truth.resurrected = true;
        }
        if !flight.overtaken && flight.identity == self.kms.identity {
            self.truth.closed[scope] = Closed::No;
        }
        epoch
    }

    /// As `Cache::keep`.
    fn keep(&mut self, flight: &Flight, caller: u8, design: &Design) {
        let (scope, epoch) = (flight.question.scope(), self.consent(flight, design));
        let entry = Entry {
            kept: epoch.map(|epoch| Kept { epoch, expires: flight.asked.sent + MAX_AGE }),
            owner: caller,
            identity: flight.identity,
            refused: flight.refused,
            overtaken: flight.overtaken,
        };
        let filed = (design.filed)(caller.into());
        if epoch.is_some() {
            self.proxy.entries[filed][scope] = Some(entry);
        }
        if epoch.is_some() || design.overtaken == Overtaken::Plaintext {
            self.proxy.landed[usize::from(caller)][scope] = Some(entry);
        }
    }

    /// As `Ledger::draw`.
    fn weigh(&mut self, flight: &Flight, kind: Kind, heeded: bool, design: &Design) {
        let (fault, scope) = (Fault::kms(kind), flight.question.scope());
        self.hear(flight, &fault);
        match Effect::of((design.evidence)(&fault), flight.about()) {
            Effect::RefuseKey => self.refuse(&fault, 0..SCOPES),
            Effect::RefuseScope | Effect::RefuseScopeProbeAll => self.refuse(&fault, scope..scope + 1),
            Effect::SuspendAll => self.close_all(Closed::Suspended, Lease::suspend),
            Effect::DoubtAll if heeded => {
                let until = (design.clock)(self) + Duration::from_secs(NOTICE.into());
                self.close_all(Closed::Noticed(self.now + NOTICE), |lease, next| lease.doubt(next, until));
            }
            Effect::SuspendScope => {
                let next = self.proxy.closings.close();
                if let Some(lease) = &mut self.proxy.leases[scope] {
                    lease.suspend(next);
                }
                self.overtake(scope, Closed::Suspended);
            }
            Effect::Silence => {
                if let Some(lease) = &mut self.proxy.leases[scope] {
                    lease.silence();
                }
            }
            // Probes may be sent at any time here.
            Effect::DoubtAll | Effect::Nothing | Effect::ProbeAll => {}
        }
    }

    /// What was heard, whatever the design makes of it.
    fn hear(&mut self, flight: &Flight, fault: &Fault) {
        match Effect::of(Evidence::of(fault), flight.about()) {
            Effect::RefuseKey => (0..SCOPES).for_each(|scope| self.overtake(scope, Closed::Refused)),
            Effect::RefuseScope => self.overtake(flight.question.scope(), Closed::Refused),
            _ => {}
        }
    }

    /// As `Ledger::refuse`.
    fn refuse(&mut self, fault: &Fault, scopes: std::ops::Range<usize>) {
        let next = self.proxy.closings.close();
        if scopes.len() == SCOPES {
            let birth = self.proxy.closings.birth();
            self.proxy.leases[0].get_or_insert(birth);
        }
        for lease in self.proxy.leases[scopes].iter_mut().flatten() {
            lease.refuse(fault.clone(), next);
        }
    }

    /// As `Ledger::close_all`.
    fn close_all(&mut self, closed: Closed, close: impl Fn(&mut Lease, Epoch)) {
        let next = self.proxy.closings.close_all();
        for lease in self.proxy.leases.iter_mut().flatten() {
            close(lease, next);
        }
        (0..SCOPES).for_each(|scope| self.overtake(scope, closed));
    }

    /// For the judge: what is on its way for `scope` was sent before this.
    fn overtake(&mut self, scope: usize, closed: Closed) {
        let refused = closed == Closed::Refused;
        self.truth.closed[scope] = match (self.truth.closed[scope], closed) {
            (Closed::Noticed(until), Closed::Noticed(_)) => Closed::Noticed(until),
            (before, closed) => before.max(closed),
        };
        for flight in self.flights.iter_mut().filter(|flight| flight.question.scope() == scope) {
            flight.overtaken = true;
            flight.refused |= refused;
        }
        let places = self.proxy.entries.iter_mut().chain(&mut self.proxy.landed);
        for entry in places.filter_map(|places| places[scope].as_mut()) {
            entry.refused |= refused;
        }
    }

    /// As `Engine::check_drift`.
    pub(super) fn look(&mut self) {
        if std::mem::take(&mut self.stepped) {
            self.close_all(Closed::Suspended, Lease::suspend);
        }
    }

    /// As `Watch::check_identity`, at the instant of the change.
    fn switch(&mut self) {
        self.kms.identity = Identity::Second;
        self.close_all(Closed::Suspended, Lease::forget);
        self.truth.allowed = Default::default();
        self.truth.granted = Default::default();
    }
}

/// Questions under way at once: two fillers.
const FLIGHTS: usize = 2;
/// How long the machine is suspended: longer than a lease.
const SUSPENSION: u8 = 3;
/// How long leases still serve after a stranger's denial.
const NOTICE: u8 = 1;
