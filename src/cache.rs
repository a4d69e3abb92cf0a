//! What has been unwrapped, sealed. moka bounds it and evicts; whether an entry may be served is decided by its
//! scope's lease alone.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use moka::ops::compute::Op;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::auth::CallerName;
use crate::clock::Moment;
use crate::fault::{Fault, REMEMBERED_MAX};
use crate::kms::Decrypt;
use crate::ledger::{Kept, Ledger, Mark};
use crate::policy::Permit;

mod entry;
mod fill;
mod fingerprint;
mod index;
mod lot;
mod parts;
mod phase;
mod round;
mod stub;

use entry::Body;
pub use entry::{Closed, Entry};
use fill::Told;
pub use fill::{Fill, Filled};
pub use fingerprint::Fingerprint;
use fingerprint::{Slip, absorb, absorb_context};
use index::Index;
use lot::Lots;
use parts::Parts;
use phase::Phase;
pub use round::Round;
use stub::Stub;

/// The `[cache]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many DEKs are kept at most, over all upstreams; one that takes more than 1 KiB, ciphertext and context
    /// included, counts as several. Divided evenly among callers (share groups count as one), so that none can push
    /// another's out.
    pub capacity: u64,
    /// The longest time since the KMS last allowed exactly this ciphertext. Entries are refreshed in the background
    /// before it ends. It is the lease, not the age, that makes a hit safe.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { capacity: 100_000, max_age: Duration::from_secs(24 * 3600) }
    }
}

type Failures = moka::sync::Cache<Fingerprint, (Fault, Moment)>;

/// The cache of one daemon, shared by its upstreams.
pub struct Cache {
    /// Held while an entry is put into a part, so that none is put into one that was taken away.
    parts: RwLock<Parts>,
    index: Arc<Index>,
    lots: Lots,
    /// How many entries there have been.
    numbers: AtomicU32,
    capacity: u64,
    /// How many seconds moka is not told of hits of an entry after it was.
    spacing: AtomicU32,
    failures: Failures,
    keyed: Hmac<Sha256>,
    max_age: Duration,
}

impl Cache {
    /// An empty cache for `shares`, and for nobody else; where there are none, for whoever comes.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn new(config: &Config, shares: &[CallerName]) -> Result<Self, getrandom::Error> {
        Self::remembering(config, shares, failures().time_to_live(REMEMBERED_MAX).build())
    }

    /// As [`Cache::new`], where another clock than the machine's tells the time: nothing is let go of for its age alone. What is
    /// too old is not served, here as there.
    ///
    /// # Errors
    /// As [`Cache::new`].
    pub fn by_another_clock(config: &Config, shares: &[CallerName]) -> Result<Self, getrandom::Error> {
        Self::remembering(config, shares, failures().build())
    }

    fn remembering(config: &Config, shares: &[CallerName], failures: Failures) -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        let index = Arc::new(Index::new());
        let parts = RwLock::new(Parts::new(config.capacity, shares, &index));
        let lots = Lots::new();
        let (numbers, spacing) = (AtomicU32::default(), SPACING.into());
        let (capacity, max_age) = (config.capacity, config.max_age);
        Ok(Self { parts, index, lots, numbers, capacity, spacing, failures, keyed, max_age })
    }

    /// The fingerprint of `call` as asked by `share` (a caller, or the group that the configuration lets share) of
    /// `upstream`. Injective before hashing: every part is tagged and length-prefixed.
    #[must_use]
    pub fn fingerprint(&self, upstream: &str, share: &CallerName, call: &Decrypt) -> Fingerprint {
        // Taken apart so that a field added to the call cannot be forgotten here. The last two never reach the cache:
        // a call that has them is not shareable.
        let Decrypt { ciphertext, key, context, dry_run: _, extra: _ } = call;
        let mut mac = self.keyed.clone();
        for part in [upstream.as_bytes(), share.as_str().as_bytes(), ciphertext.bytes()] {
            absorb(&mut mac, part);
        }
        match key {
            None => mac.update(&[0]),
            Some(key) => {
                mac.update(&[1]);
                absorb(&mut mac, key.as_str().as_bytes());
            }
        }
        match context {
            None => mac.update(&[0]),
            Some(context) => absorb_context(&mut mac, context),
        }
        let hash: [u8; 32] = mac.finalize().into_bytes().into();
        Fingerprint { hash: *hash.first_chunk().expect("16 of 32") }
    }

    /// Whether `share` has a part of its own.
    #[must_use]
    pub fn shares(&self, share: &CallerName) -> bool {
        self.parts().has(share)
    }

    fn parts(&self) -> RwLockReadGuard<'_, Parts> {
        self.parts.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives each of `shares` a part, and nobody else. Who had one and has one keeps what is in it, as far as the part is
    /// not smaller now: the most lately asked for. What others had is let go of. Walks the whole cache, where anything
    /// changes.
    pub fn divide(&self, shares: &[CallerName], now: Moment) {
        if self.parts().are_of(shares) {
            return;
        }
        let hottest = self.hottest();
        let fresh = Parts::new(self.capacity, shares, &self.index);
        let before = std::mem::replace(&mut *self.parts.write().unwrap_or_else(PoisonError::into_inner), fresh);
        // From here on nothing comes into the old parts; what came since it was walked is in the index alone, and goes.
        let parts = self.parts();
        let kept = |entry: &Entry| parts.has(entry.share()) && now < entry.expires;
        for entry in hottest.into_iter().filter(kept) {
            if let Some(part) = parts.of(entry.share()).filter(|_| self.holds(&entry)) {
                part.insert(entry.fingerprint.slip(), Stub::of(&entry));
            }
        }
        // Not `get`, in whose midst moka may let go of something else, and tell the index.
        let kept = |entry: &Entry| parts.of(entry.share()).map(|part| part.contains_key(&entry.fingerprint.slip()));
        self.index.retain(|entry| kept(entry).unwrap_or(false));
        drop(before);
    }

    /// Lets go of what is kept of `upstream`. Walks the whole cache.
    pub fn forget_upstream(&self, upstream: &str) {
        self.discard(&self.those(upstream, |_| true));
    }

    /// Forgets all failures that are remembered.
    pub fn forget_failures(&self) {
        self.failures.invalidate_all();
    }

    /// The entry of `fingerprint`, whether or not it may be served.
    #[must_use]
    pub fn find(&self, _: &Permit, fingerprint: &Fingerprint, now: Moment) -> Option<Entry> {
        let entry = self.index.get(fingerprint)?;
        if entry.told(now, self.spacing.load(Ordering::Relaxed)) {
            // For what it notes of it: that somebody wanted this one.
            let _ = self.parts().of(entry.share()).and_then(|part| part.get(&fingerprint.slip()));
        }
        Some(entry)
    }

    /// Keeps the plaintext of a successful `Decrypt` and renews the lease of its scope by it.
    ///
    /// # Errors
    /// [`crate::lease::Stale`] where the scope was closed after the question was sent; nothing is kept then.
    pub fn keep(&self, ledger: &Ledger, fill: &Fill<'_>) -> Result<Filled, crate::lease::Stale> {
        let scope = ledger.scope(fill.key, fill.call.context.as_ref());
        let Kept { epoch, sealed } = scope.keep(fill.asked, fill.call, &fill.fingerprint.hash, fill.plaintext)?;
        let before = self.index.get(&fill.fingerprint);
        let dek = ledger.versions().dek(fill.key, fill.version);
        let phase = before.map_or_else(Phase::drawn, |before| before.phase());
        let age = if scope.renewable() { self.max_age } else { ledger.terms().duration.min(self.max_age) };
        let parts = self.parts();
        let dek = if let Some((sealed, part)) = sealed.zip(parts.of(fill.share)) {
            let body = Body {
                fingerprint: fill.fingerprint,
                lot: Mark::of(self.lots.of(&scope, fill.share, fill.call)),
                told: AtomicU32::default(),
                number: self.numbers.fetch_add(1, Ordering::Relaxed),
                epoch,
                expires: fill.asked.sent + age,
                sealed,
                dek,
                source: fill.source.clone(),
                asked: fill.asked,
                refresh: phase.next(fill.asked.sent, age),
            };
            let entry = Entry::new(body, fill.call.ciphertext.bytes());
            if let Some(before) = self.index.put(entry.clone()) {
                entry.dek.succeed(&before.dek);
            }
            part.insert(fill.fingerprint.slip(), Stub::of(&entry));
            Told::Entry(entry)
        } else {
            Told::Alone(Arc::new(dek))
        };
        drop(parts);
        self.failures.invalidate(&fill.fingerprint);
        Ok(Filled { scope, epoch, dek })
    }

    /// A caller who may have it asks for what `entry` holds at `now`, whether or not the lease allows it.
    pub fn asked(&self, entry: &Entry, now: Moment) {
        if !entry.dek.asked(now)
            && let Some(successor) = self.index.get(&entry.fingerprint)
        {
            // That one may be replaced in the same moment as well; then it was asked for a moment before.
            let _ = successor.dek.asked(now);
        }
    }

    /// As [`Cache::asked`], of what a flight brought.
    pub fn asked_fresh(&self, filled: &Filled, now: Moment) {
        match &filled.dek {
            Told::Alone(dek) => {
                let _ = dek.asked(now);
            }
            Told::Entry(entry) => self.asked(entry, now),
        }
    }

    /// All entries, served or not, the one that was last asked for first. Walks the whole cache.
    #[must_use]
    pub fn hottest(&self) -> Vec<Entry> {
        let entries = self.entries(|_| true).into_iter();
        let mut stamped: Vec<_> = entries.map(|entry| (entry.dek().last_asked(), entry)).collect();
        stamped.sort_by_key(|(asked, _)| std::cmp::Reverse(*asked));
        stamped.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Entries of `upstream` that `wanted` wants, served or not. Walks the whole cache.
    #[must_use]
    pub fn those(&self, upstream: &str, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.entries(|entry| entry.scope().upstream() == upstream && wanted(entry))
    }

    /// Whether `entry` is still here, and no other in its place.
    #[must_use]
    pub fn holds(&self, entry: &Entry) -> bool {
        self.index.get(&entry.fingerprint).is_some_and(|held| held.is(entry))
    }

    /// Lets go of `entries`, but not of others that have taken their places.
    pub fn discard(&self, entries: &[Entry]) {
        for entry in entries {
            let slip = entry.fingerprint.slip();
            if let Some(part) = self.parts().of(entry.share()) {
                part.entry(slip).and_compute_with(|held| match held {
                    Some(held) if held.value().number == entry.number => Op::Remove,
                    Some(_) | None => Op::Nop,
                });
            }
            self.index.remove(slip, entry.number);
        }
        self.settle();
    }

    /// A number that is another whenever other calls than before are answered from here.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.index.changes()
    }

    /// A failure of an equal call that is recent enough to stand for this one.
    #[must_use]
    pub fn failed(&self, _: &Permit, fingerprint: &Fingerprint, now: Moment) -> Option<Fault> {
        let (fault, until) = self.failures.get(fingerprint)?;
        (now < until).then_some(fault)
    }

    /// Remembers a failure for as long as its kind deserves.
    pub fn remember(&self, fingerprint: Fingerprint, fault: &Fault, now: Moment) {
        if let Some(span) = fault.consequence().remembered {
            self.failures.insert(fingerprint, (fault.clone(), now + span));
        }
    }

    /// A round for entries of `upstream` whose time to be asked about again has come at `now`, up to `most`; only those that are
    /// served, for the others will be asked about when somebody wants them.
    #[must_use]
    pub fn round<'a>(&'a self, upstream: &'a str, now: Moment, most: usize) -> Round<'a> {
        Round::new(self, upstream, now, most)
    }

    /// Lets go of what is too old at `now`, as far as it comes by it. Returns how many entries it has looked at: some four
    /// thousand, which holds nothing up, and of a smaller cache all.
    pub fn sweep(&self, now: Moment) -> usize {
        let (aged, looked) = self.index.aged(now);
        self.discard(&aged);
        looked
    }

    /// How many entries there are, by which is also reckoned how often moka is to be told of hits. To be called every second.
    pub fn count(&self) -> u64 {
        let count = self.index.len();
        self.spacing.store(spacing(count), Ordering::Relaxed);
        count as u64
    }

    /// Has moka do what it puts off.
    fn settle(&self) {
        self.parts().all().iter().for_each(moka::sync::Cache::run_pending_tasks);
        self.failures.run_pending_tasks();
    }

    fn entries(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.index.shards().flat_map(|shard| self.index.of_shard(shard, &wanted).1).collect()
    }

    /// How long an entry lasts at most.
    #[must_use]
    pub const fn max_age(&self) -> Duration {
        self.max_age
    }

    /// How much it holds at most, in started KiB: about as many DEKs.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many entries there are. For a moment after a flood, more than the capacity: moka lets go a little later.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.index.len() as u64
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} entries)", self.len())
    }
}

fn failures() -> moka::sync::CacheBuilder<Fingerprint, (Fault, Moment), Failures> {
    moka::sync::Cache::builder().max_capacity(FAILURES_MAX)
}

/// However many entries are asked for in turns, moka is told of some 2,000 a second: to be told costs more than all else that a
/// hit does with the cache. The more there are, the longer it takes to put others in their places, so the less often is enough.
fn spacing(entries: usize) -> u32 {
    let more = u32::try_from(entries / SPACED_FROM).unwrap_or(u32::MAX);
    SPACING.saturating_mul(more.saturating_add(1))
}

const FAILURES_MAX: u64 = 10_000;
/// Seconds, for a cache of fewer entries than [`SPACED_FROM`].
const SPACING: u32 = 8;
const SPACED_FROM: usize = 16_384;

#[cfg(test)]
mod tests {
    use std::hash::{Hash, Hasher};
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::kms::{Ciphertext, Context, ContextForm, Extra, KeyId, KeyVersion, RequestId};

    type Parts = (String, String, Vec<u8>, Option<std::collections::BTreeMap<String, String>>);

    fn of(cache: &Cache, (upstream, share, blob, pairs): &Parts) -> Fingerprint {
        let boxed = |pairs: &std::collections::BTreeMap<String, String>| {
            pairs.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
        };
        let context = pairs.as_ref().and_then(|pairs| Context::new(ContextForm::Json, "", boxed(pairs)));
        let ciphertext = Ciphertext::new(blob.clone());
        let call = Decrypt { ciphertext, key: None, context, dry_run: false, extra: Extra::default() };
        cache.fingerprint(upstream, &CallerName::new(share), &call)
    }

    fn parts() -> impl Strategy<Value = Parts> {
        // Few letters, short parts: neighbours that differ only in where one part ends are likely.
        let pairs = prop::option::of(prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3));
        ("[ab]{0,2}", "[ab]{0,2}", prop::collection::vec(97..99_u8, 0..3), pairs)
    }

    proptest! {
        #[test]
        fn fingerprints_are_equal_only_if_every_part_is(one in parts(), other in parts()) {
            let cache = Cache::new(&Config::default(), &[]).unwrap();
            prop_assert_eq!(of(&cache, &one) == of(&cache, &other), one == other);
        }
    }

    const CAPACITY: u64 = 100;

    /// Keeps what the KMS answered for `blob`, for the first caller of a cache for two.
    pub(super) fn keep(cache: &Cache, ledger: &Ledger, blob: u32) -> Fingerprint {
        let ciphertext = Ciphertext::new(blob.to_be_bytes().to_vec());
        let call = Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() };
        let fingerprint = cache.fingerprint("kms", &CallerName::new("a"), &call);
        let (key, version) = (KeyId::new("key"), KeyVersion::new("1"));
        let fill = Fill {
            fingerprint,
            share: &CallerName::new("a"),
            call: &call,
            asked: ledger.ask(),
            key: &key,
            version: &version,
            plaintext: b"DEK",
            source: &RequestId::new("r-1"),
        };
        cache.keep(ledger, &fill).unwrap();
        fingerprint
    }

    fn kept() -> (Cache, Ledger) {
        of_config(Config { capacity: 2 * CAPACITY, ..Config::default() })
    }

    pub(super) fn of_config(config: Config) -> (Cache, Ledger) {
        let clock = Arc::new(crate::clock::Manual::at(jiff::Timestamp::UNIX_EPOCH));
        let cache = Cache::new(&config, &[CallerName::new("a"), CallerName::new("b")]).unwrap();
        (cache, Ledger::new("kms", crate::lease::Terms::default(), clock))
    }

    /// How many the ledger counts.
    fn counted(ledger: &Ledger) -> u64 {
        ledger.report(ledger.ask().sent)[0].entries as u64
    }

    /// A key of a table whose comparison with another says that it has begun, and ends when it may.
    struct Slow(Option<(SyncSender<()>, Mutex<Receiver<()>>)>);

    impl PartialEq for Slow {
        fn eq(&self, other: &Self) -> bool {
            if let Some((begun, end)) = self.0.as_ref().or(other.0.as_ref()) {
                begun.send(()).unwrap();
                let _ = end.lock().unwrap().recv();
            }
            false
        }
    }

    impl Eq for Slow {}

    impl Hash for Slow {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }

    /// Does `act` while another thread is in the midst of one of moka's tables, which therefore end nothing.
    fn while_moka_waits(act: impl FnOnce()) {
        let ((begin, begun), (end, ended)) = (sync_channel(0), sync_channel(0));
        let table = moka::sync::Cache::new(1);
        table.insert(Slow(None), ());
        let other = thread::spawn(move || table.get(&Slow(Some((begin, Mutex::new(ended))))));
        begun.recv().unwrap();
        act();
        drop(end);
        other.join().unwrap();
    }

    #[test]
    fn what_moka_lets_go_is_found_no_more_and_counts_no_more() {
        let (cache, ledger) = kept();
        let fingerprints: Vec<_> = (0..1000).map(|blob| keep(&cache, &ledger, blob)).collect();
        cache.sweep(ledger.ask().sent);
        assert_eq!(cache.len(), CAPACITY);
        let found = fingerprints.iter().filter(|fingerprint| cache.index.get(fingerprint).is_some()).count();
        assert_eq!(found as u64, CAPACITY);
        assert_eq!(counted(&ledger), CAPACITY);
    }

    #[test]
    fn what_has_expired_counts_no_more_although_moka_has_not_ended_it() {
        let (cache, ledger) = kept();
        for blob in 0..10 {
            keep(&cache, &ledger, blob);
        }
        assert_eq!(counted(&ledger), 10);
        let later = ledger.ask().sent + cache.max_age();
        while_moka_waits(|| {
            cache.sweep(later);
            assert_eq!((cache.len(), counted(&ledger)), (0, 0));
        });
    }

    #[test]
    fn what_has_expired_leaves_its_room_to_others() {
        let (cache, ledger) = kept();
        let fill = |blobs: std::ops::Range<u64>| {
            for blob in blobs {
                keep(&cache, &ledger, u32::try_from(blob).unwrap());
            }
            cache.sweep(ledger.ask().sent);
            cache.len()
        };
        assert_eq!(fill(0..CAPACITY), CAPACITY);
        cache.sweep(ledger.ask().sent + cache.max_age());
        assert_eq!((cache.len(), fill(CAPACITY..2 * CAPACITY)), (0, CAPACITY));
    }

    #[test]
    fn a_sweep_looks_at_some_thousands_and_the_next_goes_on_behind_them() {
        let (max_age, all) = (Duration::from_secs(20), 9000);
        let (cache, ledger) = of_config(Config { capacity: 2 * u64::from(all), max_age });
        for blob in 0..all {
            keep(&cache, &ledger, blob);
        }
        assert_eq!(cache.count(), u64::from(all));
        let later = ledger.ask().sent + max_age;
        let sweep = || (!cache.is_empty()).then(|| cache.sweep(later));
        let looked: Vec<usize> = std::iter::from_fn(sweep).take(100).collect();
        assert_eq!((looked.iter().sum::<usize>(), looked.len()), (all as usize, 3), "{looked:?}");
    }

    #[test]
    fn a_refresh_takes_the_place_of_what_it_refreshes() {
        let (cache, ledger) = kept();
        let first = keep(&cache, &ledger, 1);
        let before = cache.index.get(&first).unwrap();
        keep(&cache, &ledger, 1);
        cache.sweep(ledger.ask().sent);
        let after = cache.index.get(&first).unwrap();
        assert!(!before.is(&after));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn divided_anew_it_keeps_the_hottest_of_those_who_stay_within_its_capacity_and_nothing_of_the_others() {
        let (cache, ledger) = kept();
        let share = |names: &[&str]| names.iter().map(|name| CallerName::new(name)).collect::<Vec<_>>();
        let all: Vec<_> = (0..80).map(|blob| keep(&cache, &ledger, blob)).collect();
        let now = ledger.ask().sent;
        for hot in &all[60..] {
            cache.index.get(hot).unwrap().dek().asked(now + Duration::from_secs(1));
        }
        cache.divide(&share(&["a", "b", "c", "d"]), now);
        cache.sweep(now);
        assert_eq!(cache.len(), CAPACITY / 2);
        assert!(all[60..].iter().all(|hot| cache.index.get(hot).is_some()));
        cache.divide(&share(&["b"]), now);
        cache.sweep(now);
        assert_eq!(cache.len(), 0);
        assert_eq!(counted(&ledger), 0);
        // What a flight brings for one who has left is not kept.
        keep(&cache, &ledger, 1);
        assert_eq!(cache.len(), 0);
        cache.divide(&share(&["a"]), now);
        keep(&cache, &ledger, 1);
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn moka_is_told_of_the_first_hit_in_eight_seconds_and_less_often_where_there_are_many() {
        let (cache, ledger) = kept();
        let entry = cache.index.get(&keep(&cache, &ledger, 1)).unwrap();
        let told = [8_100, 15_900, 16_000, 23_999, 24_000]
            .map(|millis| entry.told(Moment::BOOT + Duration::from_millis(millis), spacing(1)));
        assert_eq!(told, [true, false, true, false, true]);
        assert_eq!([16_383, 16_384, 1_000_000].map(spacing), [8, 16, 496]);
        let told =
            [519, 520, 521].map(|second| entry.told(Moment::BOOT + Duration::from_secs(second), spacing(1_000_000)));
        assert_eq!(told, [false, true, false]);
    }

    #[test]
    fn a_fingerprint_means_nothing_in_another_process() {
        let part = ("u".to_owned(), "s".to_owned(), vec![1], None);
        let caches = [(); 2].map(|()| Cache::new(&Config::default(), &[]).unwrap());
        assert!(of(&caches[0], &part) != of(&caches[1], &part));
    }
}
