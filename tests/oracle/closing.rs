//! Promises 2, 3 and 4: after a closing, nothing rests on a question that was sent before it.

use std::collections::HashMap;

use super::history::{DECRYPT, Heard, OK, Told, nanos};
use super::index::{Exact, Index, Scope, closes_key, exact_of};
use super::violation::{Violation, Violations};

/// What ended or suspended leases, as far as the history shows it.
pub(super) struct Closings<'h> {
    /// By key.
    proven: HashMap<&'h str, Vec<Proof<'h>>>,
    heard: Vec<Closing<'h>>,
}

impl<'h> Closings<'h> {
    pub(super) fn of(index: &Index<'h>) -> Self {
        let mut proven: HashMap<_, Vec<_>> = HashMap::new();
        for ((_, exact), told) in &index.told {
            if let Some(key) = index.key_of(told[0]) {
                proven.entry(key).or_default().extend(proofs(index, *exact, told));
            }
        }
        let heard = index.history.heard.iter().filter_map(|heard| Closing::of(index, heard)).collect();
        Self { proven, heard }
    }

    pub(super) fn check(&self, index: &Index<'h>, told: &'h Told, found: &mut Violations) {
        let violation =
            if index.history.heard.is_empty() { self.survived(index, told) } else { self.resurrected(index, told) };
        if let Some(violation) = violation {
            found.push(violation);
        }
    }

    /// A client was given a plaintext and later, for the same, a refusal of its key: between the two the proxy has seen
    /// that refusal, and whatever it had kept of the key is lost.
    fn survived(&self, index: &Index<'h>, told: &'h Told) -> Option<Violation> {
        let made = index.unwrapped(exact_of(told)?).iter().rev();
        let newest = made.copied().find(|made| made.is_consent() && made.at_ns <= told.latest())?;
        let seen = self.proven.get(index.key_of(told)?)?.iter().filter(|proof| proof.refusal.latest() < told.sent_ns);
        let last = seen.max_by_key(|proof| proof.given.sent_ns)?;
        if newest.at_ns > last.given.sent_ns {
            return None;
        }
        let what = "a plaintext from before a refusal that the proxy has seen";
        Some(Violation::new(2, what).decided([newest]).told([last.given, last.refusal, told]))
    }

    /// By the proxy's own ear: of what this plaintext may rest on, each was overtaken by a closing.
    fn resurrected(&self, index: &Index<'h>, told: &'h Told) -> Option<Violation> {
        let (exact, scope) = (exact_of(told)?, index.scope_of(told)?);
        let concerns = |closing: &&Closing<'h>| closing.concerns(scope) && closing.heard.received_ns < told.latest();
        let closings: Vec<_> = self.heard.iter().filter(concerns).collect();
        let wiping: Vec<_> = closings.iter().copied().filter(|closing| closing.wipes).collect();
        let (share, released) = (index.share(told), index.earliest(told));
        let ours = |heard: &&Heard| heard.share.as_deref().is_none_or(|other| other == share) && heard.outcome == OK;
        let exactly: Vec<_> = index.heard(exact).iter().copied().filter(ours).collect();
        overtaken(&wiping, &exactly, told, released)
            .or_else(|| overtaken(&closings, index.heard_consents(scope), told, released))
    }
}

/// Two answers for the same, between which the proxy has seen that the key is refused.
struct Proof<'h> {
    given: &'h Told,
    refusal: &'h Told,
}

fn proofs<'h>(index: &Index<'h>, exact: Exact<'h>, told: &[&'h Told]) -> Vec<Proof<'h>> {
    let mut proofs: Vec<Proof<'h>> = Vec::new();
    let mut refusals: Vec<_> = told.iter().copied().filter(|told| closes_key(&told.outcome)).collect();
    refusals.sort_by_key(|refusal| refusal.latest());
    for refusal in refusals {
        let before = told.iter().copied().filter(|told| told.is_decrypted() && told.latest() < refusal.sent_ns);
        // The earliest refusal after it proves as much as any.
        let news = |given: &&Told| proofs.iter().all(|proof| proof.given.sent_ns < given.sent_ns);
        let given = before.max_by_key(|given| given.sent_ns).filter(news);
        if let Some(given) = given.filter(|given| is_kept(index, exact, given, refusal)) {
            proofs.push(Proof { given, refusal });
        }
    }
    proofs
}

/// Whether what was given is still known when the refusal comes, so that the proxy knows which key is refused.
fn is_kept<'h>(index: &Index<'h>, exact: Exact<'h>, given: &Told, refusal: &Told) -> bool {
    let age = nanos(index.history.terms.max_age) / 4 * 3;
    let unwrapped = index.unwrapped(exact).iter().rev();
    let made = unwrapped.copied().find(|made| made.is_consent() && made.at_ns <= given.latest());
    made.is_some_and(|made| {
        refusal.latest() < made.at_ns.saturating_add(age) && !index.restarted(made.at_ns, refusal.latest())
    })
}

/// What the proxy heard that ends or suspends leases.
struct Closing<'h> {
    heard: &'h Heard,
    /// None for all.
    key: Option<&'h str>,
    /// Only in this scope, where it is not the key itself that is refused.
    scope: Option<Scope<'h>>,
    /// What was kept is lost, and not only set aside.
    wipes: bool,
}

impl<'h> Closing<'h> {
    fn of(index: &Index<'h>, heard: &'h Heard) -> Option<Self> {
        if heard.outcome == "credentials" {
            return is_serving(index, heard.received_ns).then_some(Self {
                heard,
                key: None,
                scope: None,
                wipes: false,
            });
        }
        let decrypt = heard.action == DECRYPT;
        let known = match (decrypt, &heard.share) {
            (true, Some(share)) if !was_given(index, heard, share) => None,
            (true, _) => index.key_of_heard(heard),
            (false, _) => heard.key.as_deref(),
        }?;
        let scope = Some((known, heard.context.as_deref()));
        match &*heard.outcome {
            outcome if closes_key(outcome) => Some(Self { heard, key: Some(known), scope: None, wipes: true }),
            "no_permission" if decrypt => Some(Self { heard, key: Some(known), scope, wipes: true }),
            "other" | "unsupported" if decrypt => Some(Self { heard, key: Some(known), scope, wipes: false }),
            _ => None,
        }
    }

    fn concerns(&self, scope: Scope<'h>) -> bool {
        self.key.is_none_or(|key| key == scope.0) && self.scope.is_none_or(|closed| closed == scope)
    }

    /// Whether it came between a question and the release of what rests on the answer.
    fn overtakes(&self, question: &Heard, released: u64) -> bool {
        question.sent_ns < self.heard.received_ns && self.heard.received_ns < released.max(question.received_ns)
    }
}

/// Whether something is kept for who asked, so that the proxy knows of which key it asks.
fn was_given(index: &Index<'_>, heard: &Heard, share: &str) -> bool {
    let ciphertext = heard.ciphertext.as_deref().unwrap_or_default();
    let told = index.told.get(&(share, (ciphertext, heard.context.as_deref())));
    let kept = |told: &Told| told.is_decrypted() && told.latest() <= heard.sent_ns;
    told.is_some_and(|told| told.iter().any(|told| kept(told) && !index.restarted(told.sent_ns, heard.received_ns)))
}

/// Whether any lease is surely in force: credentials that are refused while everything is closed close nothing.
fn is_serving(index: &Index<'_>, at: u64) -> bool {
    let lease = nanos(index.history.terms.lease);
    let consent = |heard: &&Heard| heard.action == DECRYPT && heard.outcome == OK && heard.received_ns <= at;
    let last = index.history.heard.iter().filter(consent).max_by_key(|heard| heard.sent_ns);
    last.is_some_and(|last| {
        let closed = |heard: &Heard| heard.outcome != OK && (last.sent_ns..at).contains(&heard.received_ns);
        let stepped = index.history.steps.iter().any(|step| (last.sent_ns..=at).contains(step));
        let disturbed = stepped || index.restarted(last.sent_ns, at);
        at < last.sent_ns + lease && !disturbed && !index.history.heard.iter().any(closed)
    })
}

fn overtaken(closings: &[&Closing<'_>], questions: &[&Heard], told: &Told, released: u64) -> Option<Violation> {
    let over = |question: &Heard| closings.iter().find(|closing| closing.overtakes(question, released));
    let answered = questions.iter().copied().filter(|question| question.received_ns <= told.latest());
    let last = answered.clone().max_by_key(|question| question.received_ns)?;
    if answered.into_iter().any(|question| over(question).is_none()) {
        return None;
    }
    let what = "a plaintext that rests on a question from before a closing";
    Some(Violation::new(4, what).heard([last]).heard(over(last).map(|closing| closing.heard)).told([told]))
}

/// While a key is refused, one trial a second goes up for each who asks, beside the probes.
pub(super) fn check_trials(index: &Index<'_>, found: &mut Violations) {
    let probes = usize::try_from(TRIAL / (nanos(index.history.terms.probe) / 2).max(1)).unwrap_or(usize::MAX);
    let most = index.shares().saturating_add(probes).saturating_add(1);
    for (_, decisions) in index.every_unwrapped() {
        let refused: Vec<_> = decisions.iter().copied().filter(|decision| closes_key(&decision.outcome)).collect();
        for many in refused.windows(most.saturating_add(1)) {
            if many[most].at_ns - many[0].at_ns < TRIAL {
                let what = "a refused key is asked for more than once a second by each who wants it";
                found.push(Violation::new(3, what).decided(many.iter().copied()));
            }
        }
    }
}

const TRIAL: u64 = 1_000_000_000;
