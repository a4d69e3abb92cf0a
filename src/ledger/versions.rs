//! Which versions of which keys wrapped the DEKs that callers ask for: what an operator must know before an old version
//! may be disabled.
//!
//! Counted is what callers were given or refused here since the start, and nothing else. Our own probes and refreshes
//! do not count: they would keep every version alive that a cached DEK was ever wrapped by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::kms::{KeyId, KeyVersion};

/// The versions of all keys of one upstream, as seen since the start; up to 1,024.
#[derive(Debug, Default)]
pub struct Versions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    versions: HashMap<(KeyId, KeyVersion), Arc<Version>>,
    primaries: HashMap<KeyId, Primary>,
    forgotten: u64,
}

#[derive(Clone, Debug)]
struct Primary {
    version: KeyVersion,
    /// When the first question was sent that it answered, where another version had answered before.
    since: Option<Moment>,
    /// When the last one was.
    heard: Moment,
}

/// One version of one key.
#[derive(Debug)]
struct Version {
    key: KeyId,
    name: KeyVersion,
    first_asked: Stamp,
    last_asked: Stamp,
    last_encrypted: Stamp,
}

/// One cached DEK: under which version it is, and when it was last asked for, over all its refreshes.
#[derive(Debug)]
pub struct Dek {
    version: Arc<Version>,
    asked: Stamp,
}

/// What was seen of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTally {
    /// The key.
    pub key: KeyId,
    /// The version that encrypts, where an Encrypt or a GenerateDataKey has told.
    pub primary: Option<KeyVersion>,
    /// When that version took over from another, as far as was seen here: none where it is the first that was seen.
    pub rotated: Option<Moment>,
    /// Every version seen: the primary first, then the one that was used last.
    pub versions: Vec<Tally>,
}

/// What was seen of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The version.
    pub version: KeyVersion,
    /// When a caller first asked for a DEK under it.
    pub first_asked: Option<Moment>,
    /// When a caller last did.
    pub last_asked: Option<Moment>,
    /// When it was last seen to encrypt.
    pub last_encrypted: Option<Moment>,
    /// DEKs under it that are in the cache. One that two callers asked for counts twice, unless they share.
    pub cached: usize,
    /// How many of them were asked for since [`KeyTally::rotated`]; where that is not known, since the start.
    pub asked_since: usize,
    /// What follows.
    pub verdict: Verdict,
}

/// What can be said of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Old, and asked for since the rotation: something is left under it, or was then.
    Asked,
    /// It encrypts.
    Primary,
    /// Old, and yet it was seen to encrypt since the rotation: not all of the KMS knows of it.
    StillEncrypts,
    /// Old, and not asked for since the rotation.
    Unasked,
    /// Nothing was encrypted here since the start, so which version is old is not known.
    Unknown,
}

impl Versions {
    /// A DEK under `version` that has just been unwrapped and not been given to anybody yet.
    #[must_use]
    pub fn dek(&self, key: &KeyId, version: &KeyVersion) -> Dek {
        Dek { version: self.known().version(key, version), asked: Stamp::default() }
    }

    /// A question sent at `sent` was answered with something that `version` of `key` wrapped.
    ///
    /// An answer that was overtaken by a later one does not make its version primary, nor does one by a version that
    /// was primary before another: no KMS goes back, but one of its replicas may lag.
    pub fn encrypts(&self, key: &KeyId, version: &KeyVersion, sent: Moment) {
        let mut known = self.known();
        let news = known.version(key, version).last_encrypted.set(sent) == 0;
        let Known { primaries, .. } = &mut *known;
        match primaries.get_mut(key) {
            Some(primary) if primary.version == *version => primary.heard = primary.heard.max(sent),
            Some(primary) if news && sent >= primary.heard => {
                *primary = Primary { version: version.clone(), since: Some(sent), heard: sent };
            }
            // Overtaken, but it tells that there was a rotation.
            Some(primary) => {
                primary.since.get_or_insert(sent);
            }
            None => {
                primaries.insert(key.clone(), Primary { version: version.clone(), since: None, heard: sent });
            }
        }
    }

    /// Versions that are no longer counted, because there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.known().forgotten
    }

    /// All keys by name, with `deks` as the DEKs that are cached.
    #[must_use]
    pub fn report<'a>(&self, deks: impl IntoIterator<Item = &'a Dek>) -> Vec<KeyTally> {
        let known = self.known();
        let versions: Vec<_> = known.versions.values().map(Arc::clone).collect();
        let primaries = known.primaries.clone();
        drop(known);
        let mut asked: HashMap<*const Version, Vec<u64>> = HashMap::new();
        for dek in deks {
            asked.entry(Arc::as_ptr(&dek.version)).or_default().push(dek.asked.millis());
        }
        let mut keys = HashMap::<_, Vec<_>>::new();
        for version in &versions {
            let deks = asked.get(&Arc::as_ptr(version)).map_or(&[][..], Vec::as_slice);
            keys.entry(version.key.clone()).or_default().push(version.tally(primaries.get(&version.key), deks));
        }
        let mut tallies: Vec<_> = keys.into_iter().map(|(key, versions)| of_key(key, versions, &primaries)).collect();
        tallies.sort_by(|one, other| one.key.cmp(&other.key));
        tallies
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The version of that name; one that nobody counts where every other is in use.
    fn version(&mut self, key: &KeyId, version: &KeyVersion) -> Arc<Version> {
        let name = (key.clone(), version.clone());
        if let Some(version) = self.versions.get(&name) {
            return Arc::clone(version);
        }
        let new = Arc::new(Version::new(key, version));
        if self.versions.len() >= VERSIONS_MAX {
            self.forgotten += 1;
            let Some(oldest) = self.oldest_unused() else { return new };
            self.versions.remove(&oldest);
        }
        self.versions.insert(name, Arc::clone(&new));
        new
    }

    fn oldest_unused(&self) -> Option<(KeyId, KeyVersion)> {
        let primary = |version: &Version| self.primaries.get(&version.key).is_some_and(|at| at.version == version.name);
        let unused = self.versions.iter().filter(|(_, version)| Arc::strong_count(version) == 1 && !primary(version));
        unused.min_by_key(|(_, version)| version.last_used()).map(|(name, _)| name.clone())
    }
}

impl Version {
    fn new(key: &KeyId, name: &KeyVersion) -> Self {
        let [first_asked, last_asked, last_encrypted] = [(); 3].map(|()| Stamp::default());
        Self { key: key.clone(), name: name.clone(), first_asked, last_asked, last_encrypted }
    }

    fn last_used(&self) -> u64 {
        self.last_asked.millis().max(self.last_encrypted.millis())
    }

    fn tally(&self, primary: Option<&Primary>, deks: &[u64]) -> Tally {
        let rotated = primary.and_then(|primary| primary.since).map_or(1, millis);
        let verdict = match primary {
            None => Verdict::Unknown,
            Some(primary) if primary.version == self.name => Verdict::Primary,
            Some(_) if self.last_encrypted.millis() > rotated => Verdict::StillEncrypts,
            Some(_) if self.last_asked.millis() >= rotated => Verdict::Asked,
            Some(_) => Verdict::Unasked,
        };
        Tally {
            version: self.name.clone(),
            first_asked: self.first_asked.moment(),
            last_asked: self.last_asked.moment(),
            last_encrypted: self.last_encrypted.moment(),
            cached: deks.len(),
            asked_since: deks.iter().filter(|&&asked| asked >= rotated).count(),
            verdict,
        }
    }
}

impl Dek {
    /// The key that it is under.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        &self.version.key
    }

    /// The version that it is under.
    #[must_use]
    pub fn version(&self) -> &KeyVersion {
        &self.version.name
    }

    /// When a caller last asked for it; none where nobody has.
    #[must_use]
    pub fn last_asked(&self) -> Option<Moment> {
        self.asked.moment()
    }

    /// A caller who may have it asks for it at `now`, whether or not the lease allows it. Within one millisecond, all but
    /// the first only read. False where [`Dek::succeed`] has moved on to another, which is to be told as well.
    pub fn asked(&self, now: Moment) -> bool {
        if self.version.last_asked.set(now) == 0 {
            self.version.first_asked.set(now);
        }
        self.asked.set(now) != MOVED
    }

    /// Takes the place of `before`, which is the same DEK before a refresh: when that was asked for stays known.
    pub fn succeed(&self, before: &Self) {
        let asked = before.asked.0.swap(MOVED, Ordering::Relaxed);
        if asked != MOVED && self.is_under(before.key(), before.version()) {
            self.asked.0.fetch_max(asked, Ordering::Relaxed);
        }
    }

    fn is_under(&self, key: &KeyId, version: &KeyVersion) -> bool {
        self.key() == key && self.version() == version
    }
}

/// The latest of some moments, in milliseconds since boot; 0 for none.
#[derive(Debug, Default)]
struct Stamp(AtomicU64);

impl Stamp {
    /// What it was before.
    fn set(&self, moment: Moment) -> u64 {
        let (now, before) = (millis(moment), self.millis());
        // A look first: writing what is there already would take the line away from every other core.
        if before < now { self.0.fetch_max(now, Ordering::Relaxed) } else { before }
    }

    fn millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn moment(&self) -> Option<Moment> {
        Some(self.millis())
            .filter(|&millis| millis > 0 && millis != MOVED)
            .map(|millis| Moment::BOOT + Duration::from_millis(millis))
    }
}

fn of_key(key: KeyId, mut versions: Vec<Tally>, primaries: &HashMap<KeyId, Primary>) -> KeyTally {
    versions.sort_by_key(|tally| {
        let used = tally.last_asked.max(tally.last_encrypted);
        (tally.verdict != Verdict::Primary, std::cmp::Reverse(used), tally.version.as_str().to_owned())
    });
    let primary = primaries.get(&key);
    let (version, rotated) = (primary.map(|primary| primary.version.clone()), primary.and_then(|at| at.since));
    KeyTally { key, primary: version, rotated, versions }
}

/// At least 1, so that it is told from none.
fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.since(Moment::BOOT).as_millis()).unwrap_or(MOVED).clamp(1, MOVED - 1)
}

const VERSIONS_MAX: usize = 1024;
/// In the place of when it was asked for: another is told of that.
const MOVED: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Manual};

    struct Scene {
        clock: Manual,
        versions: Versions,
        cached: Vec<Arc<Dek>>,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Manual::at(jiff::Timestamp::UNIX_EPOCH);
            Self { clock, versions: Versions::default(), cached: Vec::new() }
        }

        /// A second passes; then a new DEK is asked for.
        fn cache(&mut self, version: &str) -> Arc<Dek> {
            let dek = Arc::new(self.versions.dek(&key(), &KeyVersion::new(version)));
            self.cached.push(Arc::clone(&dek));
            self.ask(&dek);
            dek
        }

        fn ask(&self, dek: &Dek) {
            dek.asked(self.tick());
        }

        fn encrypts(&self, version: &str) {
            self.versions.encrypts(&key(), &KeyVersion::new(version), self.tick());
        }

        fn tick(&self) -> Moment {
            self.clock.advance(Duration::from_secs(1));
            self.clock.now()
        }

        fn tally(&self) -> KeyTally {
            let mut all = self.versions.report(self.cached.iter().map(|dek| &**dek));
            assert_eq!(all.len(), 1, "{all:?}");
            all.remove(0)
        }

        /// For each version: how many are cached, how many of them were asked for since, and the verdict.
        fn verdicts(&self) -> Vec<(String, usize, usize, Verdict)> {
            let told = |tally: Tally| (tally.version.as_str().into(), tally.cached, tally.asked_since, tally.verdict);
            self.tally().versions.into_iter().map(told).collect()
        }
    }

    fn key() -> KeyId {
        KeyId::new("key-1")
    }

    fn at(second: u64) -> Option<Moment> {
        Some(Moment::BOOT + Duration::from_secs(3600 + second))
    }

    #[test]
    fn an_old_version_is_asked_for_or_not_since_another_was_first_seen_to_encrypt() {
        let mut scene = Scene::new();
        scene.encrypts("a");
        let first = scene.cache("a");
        scene.cache("a");
        scene.encrypts("b");
        assert_eq!(scene.verdicts(), [("b".into(), 0, 0, Verdict::Primary), ("a".into(), 2, 0, Verdict::Unasked),]);
        scene.ask(&first);
        assert_eq!(scene.verdicts()[1], ("a".into(), 2, 1, Verdict::Asked));
        let tally = scene.tally();
        assert_eq!((tally.primary, tally.rotated), (Some(KeyVersion::new("b")), at(4)));
        let old = &tally.versions[1];
        assert_eq!((old.first_asked, old.last_asked, old.last_encrypted), (at(2), at(5), at(1)));
    }

    #[test]
    fn without_a_rotation_that_was_seen_here_everything_since_the_start_counts() {
        let mut scene = Scene::new();
        scene.cache("a");
        assert_eq!(scene.verdicts(), [("a".into(), 1, 1, Verdict::Unknown)]);
        scene.encrypts("b");
        assert_eq!(scene.tally().rotated, None);
        assert_eq!(scene.verdicts()[1], ("a".into(), 1, 1, Verdict::Asked), "b may have been primary all the time");
    }

    #[test]
    fn what_left_the_cache_was_asked_for_all_the_same() {
        let mut scene = Scene::new();
        scene.encrypts("a");
        scene.encrypts("b");
        scene.cache("a");
        scene.cached.clear();
        assert_eq!(scene.verdicts()[1], ("a".into(), 0, 0, Verdict::Asked));
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_make_its_version_primary() {
        let scene = Scene::new();
        let before = scene.tick();
        scene.encrypts("b");
        scene.versions.encrypts(&key(), &KeyVersion::new("a"), before);
        let tally = scene.tally();
        assert_eq!((tally.primary, tally.rotated), (Some(KeyVersion::new("b")), Some(before)));
        assert_eq!(tally.versions[1].verdict, Verdict::Unasked);
    }

    #[test]
    fn an_old_version_that_encrypts_again_is_told_and_not_primary() {
        let scene = Scene::new();
        for version in ["a", "b", "a"] {
            scene.encrypts(version);
        }
        assert_eq!(scene.tally().primary, Some(KeyVersion::new("b")));
        assert_eq!(scene.verdicts()[1], ("a".into(), 0, 0, Verdict::StillEncrypts));
    }

    #[test]
    fn beyond_the_limit_the_oldest_unused_is_forgotten_and_never_a_primary_or_a_cached_one() {
        let mut scene = Scene::new();
        scene.encrypts("primary");
        scene.cache("cached");
        for number in 0..VERSIONS_MAX {
            scene.ask(&scene.versions.dek(&key(), &KeyVersion::new(&number.to_string())));
        }
        let names: Vec<String> = scene.verdicts().into_iter().map(|(name, ..)| name).collect();
        assert_eq!((names.len(), scene.versions.forgotten()), (VERSIONS_MAX, 2));
        let kept = |name: &str| names.iter().any(|other| other == name);
        assert_eq!(
            [kept("primary"), kept("cached"), kept("0"), kept("1"), kept("2")],
            [true, true, false, false, true]
        );
    }

    #[test]
    fn whoever_asks_for_what_was_refreshed_meanwhile_is_sent_on_and_nothing_is_forgotten() {
        let scene = Scene::new();
        let dek = |version: &str| scene.versions.dek(&key(), &KeyVersion::new(version));
        let (before, after, other) = (dek("1"), dek("1"), dek("2"));
        let (first, second) = (scene.tick(), scene.tick());
        assert!(before.asked(first));
        after.succeed(&before);
        assert_eq!((before.last_asked(), after.last_asked()), (None, Some(first)));
        assert!(!before.asked(second), "it is to ask the other");
        assert_eq!(after.last_asked(), Some(first));
        assert!(after.asked(second));
        other.succeed(&after);
        assert_eq!(other.last_asked(), None, "it is another DEK");
    }
}
