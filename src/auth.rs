//! The door: from a claim and the peer that makes it to a caller.

mod replay;

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use self::replay::{Marker, Replays};
use crate::claim::{Claim, ListenerName, Peer, PeerOrigin, Signed, SigningKey};
use crate::clock::Moment;
use crate::fault::{Fault, Kind};
use crate::guard::Full;
use crate::secret::Secret;
use crate::trace::Span;

/// A caller's name in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerName(Arc<str>);

impl CallerName {
    /// Wraps a configured name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as text, shared.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Somebody who has proven who they are. Only this module makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: CallerName,
    listener: ListenerName,
    /// Of the request that it makes, where that has one.
    span: Option<Span>,
}

impl Caller {
    /// The configured name.
    #[must_use]
    pub const fn name(&self) -> &CallerName {
        &self.name
    }

    /// The listener that it came through.
    #[must_use]
    pub const fn listener(&self) -> &ListenerName {
        &self.listener
    }

    /// As it asks in a request whose span is this.
    #[must_use]
    pub fn traced(self, span: Option<Span>) -> Self {
        Self { span, ..self }
    }

    /// The span of the request that it makes, where that has one.
    #[must_use]
    pub const fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }
}

/// One way in for one caller. Several entries with the same name are alternatives.
#[derive(Debug)]
pub struct Entry {
    /// Who comes in.
    pub name: CallerName,
    /// Through which listener, and no other.
    pub listener: ListenerName,
    /// By which proof.
    pub identity: Identity,
}

/// What proves who somebody is.
#[derive(Debug)]
pub enum Identity {
    /// A signature with this access key, which is local to the listener.
    AccessKey {
        /// The key's public name.
        id: String,
        /// The key.
        secret: Secret,
    },
    /// A client certificate that the listener's client CA verified and that carries this DNS or URI name (SAN).
    Certificate {
        /// The name, whole; DNS names regardless of case.
        name: String,
    },
    /// Having reached the socket. Whoever may connect is the caller, unless a certificate or a uid says otherwise.
    Listener,
    /// The peer's user id, as the kernel tells it on a unix socket.
    Unix {
        /// The user id; never 65534, which any user of another namespace has.
        uid: u32,
    },
}

/// Everyone who may come in, and by which proof. Replaced whole; each request asks it anew. What does not go with the
/// rest is the memory of nonces: what was used up stays so.
#[derive(Debug)]
pub struct Door {
    guests: ArcSwap<Guests>,
    replays: Mutex<Memories>,
    marker: Marker,
    nobody: SigningKey,
}

/// The nonces of each access key, by its id.
type Memories = HashMap<String, Arc<Mutex<Replays>>>;

/// Those whom a [`Door`] is to admit. Only [`Door::invite`] makes them.
#[derive(Debug)]
pub struct Guests(BTreeMap<ListenerName, Roster>);

impl Door {
    /// A door for `entries`.
    ///
    /// # Errors
    /// [`EntryError`] where two entries could be meant by one proof, or an entry proves nothing.
    pub fn new(entries: Vec<Entry>) -> Result<Self, EntryError> {
        // As long as the secrets that Alibaba Cloud issues, so that hashing it takes as long.
        let nobody = SigningKey::new(&Secret::new(vec![0; 30]))?;
        let (guests, replays) = (ArcSwap::from_pointee(Guests(BTreeMap::new())), Mutex::default());
        let door = Self { guests, replays, marker: Marker::default(), nobody };
        door.guests.store(Arc::new(door.invite(entries)?));
        Ok(door)
    }

    /// Those whom [`Door::admit_only`] then admits. An access key that was known before keeps its memory of nonces.
    ///
    /// # Errors
    /// As [`Door::new`].
    pub fn invite(&self, entries: Vec<Entry>) -> Result<Guests, EntryError> {
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rosters: BTreeMap<_, Roster> = BTreeMap::new();
        for entry in entries {
            rosters.entry(entry.listener.clone()).or_default().add(entry, &mut replays)?;
        }
        Ok(Guests(rosters))
    }

    /// Admits `guests` and nobody else, from now on. The nonces of an access key that is gone are forgotten when none of
    /// them could be used again, in case it comes back.
    pub fn admit_only(&self, guests: Guests, now: Moment) {
        let mut replays = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        replays.retain(|id, memory| {
            guests.know_key(id) || !memory.lock().unwrap_or_else(PoisonError::into_inner).is_spent(now)
        });
        self.guests.store(Arc::new(guests));
    }

    /// Whether `entry` comes in as it stands, secret and all.
    #[must_use]
    pub fn knows(&self, entry: &Entry) -> bool {
        let guests = self.guests.load();
        guests.0.get(&entry.listener).is_some_and(|roster| roster.knows(entry))
    }

    /// Whether `caller` may come in through `listener`, given its proof.
    #[must_use]
    pub fn expects(&self, listener: &ListenerName, caller: &CallerName) -> bool {
        self.guests.load().0.get(listener).is_some_and(|roster| roster.callers().any(|known| known.name == *caller))
    }

    /// Finds out who `peer` is by its `claim`.
    ///
    /// A signature, where there is one, must hold; the socket's own proofs do not stand in for it. Without one a
    /// certificate decides, then the uid, then the listener. A request signed without a nonce is known by its
    /// signature instead, so that the same bytes never pass twice; a nonce is used up only by a signature that holds.
    /// Access keys that are not known cost as much time as those that are.
    ///
    /// # Errors
    /// [`Kind::Unauthenticated`] without any proof, and [`Kind::UnknownAccessKey`], [`Kind::StaleTimestamp`],
    /// [`Kind::BadSignature`] or [`Kind::NonceUsed`], in this order, for signatures. [`Kind::Overloaded`] where one
    /// access key signs more than 262,144 requests within the time that `claim`'s clock is behind.
    pub fn admit(&self, peer: &Peer, claim: &Claim<'_>, now: Moment, wall: Timestamp) -> Result<Caller, Fault> {
        let guests = self.guests.load();
        let roster = guests.0.get(&peer.listener);
        match claim {
            Claim::Anonymous => {
                roster.and_then(|roster| roster.recognise(peer)).ok_or_else(|| Fault::caller(Kind::Unauthenticated))
            }
            Claim::Signed(signed) => {
                self.verify(roster.and_then(|roster| roster.keys.get(signed.access_key_id)), signed, now, wall)
            }
        }
    }

    fn verify(&self, key: Option<&Key>, signed: &Signed<'_>, now: Moment, wall: Timestamp) -> Result<Caller, Fault> {
        let proven = signed.proof.verify(key.map_or(&self.nobody, |key| &key.signing));
        let key = key.ok_or_else(|| Fault::caller(Kind::UnknownAccessKey))?;
        let age = wall.duration_since(signed.signed_at);
        if age.unsigned_abs() > WINDOW {
            return Err(Fault::caller(Kind::StaleTimestamp));
        }
        if !proven {
            return Err(Fault::caller(Kind::BadSignature(signed.proof.string_to_sign())));
        }
        let remaining = if age.is_negative() { WINDOW + age.unsigned_abs() } else { WINDOW - age.unsigned_abs() };
        let mark = match signed.nonce {
            None | Some("") => self.marker.tag(signed.proof.tag()),
            Some(nonce) => self.marker.nonce(nonce),
        };
        let mut replays = key.replays.lock().unwrap_or_else(PoisonError::into_inner);
        match replays.admit(mark, signed.signed_at, remaining, now) {
            Ok(()) => Ok(key.caller.clone()),
            Err(Kind::Overloaded) => Err(Fault::proxy(Kind::Overloaded)),
            Err(kind) => Err(Fault::caller(kind)),
        }
    }
}

/// Why a list of entries makes no door.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// One proof would mean two entries.
    #[error("callers {first} and {second} both claim {proof} on listener {listener}: give each caller its own")]
    Ambiguous {
        /// The earlier entry.
        first: CallerName,
        /// The later entry.
        second: CallerName,
        /// What both claim.
        proof: String,
        /// Where.
        listener: String,
    },
    /// An identity without content: anyone, or no one, would have it.
    #[error("caller {caller}: {what} is empty")]
    Empty {
        /// Whose entry.
        caller: CallerName,
        /// Which setting.
        what: &'static str,
    },
    /// Uid 65534 proves nothing.
    #[error(
        "caller {0}: uid 65534 stands for every user of another user namespace; give the caller a uid or a listener of its own"
    )]
    OverflowUid(CallerName),
    /// There is nowhere to keep an access key.
    #[error(transparent)]
    Full(#[from] Full),
}

impl Guests {
    fn know_key(&self, id: &str) -> bool {
        self.0.values().any(|roster| roster.keys.contains_key(id))
    }
}

/// Who may come in through one listener. Names are few and configured: to compare them takes less than to hash one.
#[derive(Debug, Default)]
struct Roster {
    keys: BTreeMap<Box<str>, Key>,
    certificates: BTreeMap<Box<str>, Caller>,
    /// Never holds [`OVERFLOW_UID`].
    users: BTreeMap<u32, Caller>,
    anyone: Option<Caller>,
}

/// A caller's access key. The memory of nonces goes with the id, wherever it is listed: what was used up at one
/// listener is used up at all.
#[derive(Debug)]
struct Key {
    caller: Caller,
    signing: SigningKey,
    replays: Arc<Mutex<Replays>>,
}

impl Roster {
    fn add(&mut self, entry: Entry, replays: &mut Memories) -> Result<(), EntryError> {
        let Entry { name, listener, identity } = entry;
        let caller = Caller { name, listener: listener.clone(), span: None };
        let empty = |what| EntryError::Empty { caller: caller.name.clone(), what };
        let first = match identity {
            Identity::AccessKey { id, .. } if id.is_empty() => return Err(empty("access_key.id")),
            Identity::AccessKey { secret, .. } if secret.is_empty() => return Err(empty("the access key's secret")),
            Identity::Certificate { name } if name.is_empty() => return Err(empty("certificate_name")),
            Identity::Unix { uid: OVERFLOW_UID } => return Err(EntryError::OverflowUid(caller.name)),
            Identity::AccessKey { id, secret } => {
                let replays = Arc::clone(replays.entry(id.clone()).or_default());
                let key = Key { caller: caller.clone(), signing: SigningKey::new(&secret)?, replays };
                let proof = format!("access key {id}");
                only(&mut self.keys, id.into(), key).map_err(|key| (key.caller, proof))
            }
            Identity::Certificate { name } => {
                let proof = format!("certificate name {name}");
                only(&mut self.certificates, comparable(&name), caller.clone()).map_err(|first| (first, proof))
            }
            Identity::Unix { uid } => {
                only(&mut self.users, uid, caller.clone()).map_err(|first| (first, format!("uid {uid}")))
            }
            Identity::Listener => match self.anyone.replace(caller.clone()) {
                Some(first) => Err((first, "whoever reaches the socket".to_owned())),
                None => Ok(()),
            },
        };
        first.map_err(|(first, proof)| EntryError::Ambiguous {
            first: first.name,
            second: caller.name,
            proof,
            listener: listener.as_str().to_owned(),
        })
    }

    fn knows(&self, entry: &Entry) -> bool {
        let caller = match &entry.identity {
            Identity::AccessKey { id, secret } => {
                let key = self.keys.get(id.as_str()).filter(|key| key.signing.is_of(secret));
                key.map(|key| &key.caller)
            }
            Identity::Certificate { name } => self.certificates.get(&comparable(name)),
            Identity::Listener => self.anyone.as_ref(),
            Identity::Unix { uid } => self.users.get(uid),
        };
        caller.is_some_and(|caller| caller.name == entry.name)
    }

    fn callers(&self) -> impl Iterator<Item = &Caller> {
        let signing = self.keys.values().map(|key| &key.caller);
        signing.chain(self.certificates.values()).chain(self.users.values()).chain(&self.anyone)
    }

    /// Who `peer` is by its socket. A certificate that names two callers names none.
    fn recognise(&self, peer: &Peer) -> Option<Caller> {
        let mut named = peer.certificate_names.iter().filter_map(|name| self.certificates.get(&comparable(name)));
        if let Some(caller) = named.next() {
            return named.all(|other| other == caller).then(|| caller.clone());
        }
        let user = match peer.origin {
            PeerOrigin::Unix(Some(peer)) => self.users.get(&peer.uid),
            PeerOrigin::Unix(None) | PeerOrigin::Tcp(_) => None,
        };
        user.or(self.anyone.as_ref()).cloned()
    }
}

/// Inserts what must not be there yet; gives back what was.
fn only<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<(), V> {
    match map.entry(key) {
        Slot::Vacant(slot) => {
            slot.insert(value);
            Ok(())
        }
        Slot::Occupied(slot) => Err(slot.remove()),
    }
}

/// DNS names are equal whatever their case; URIs are not.
fn comparable(name: &str) -> Box<str> {
    if name.contains(':') { name.into() } else { name.to_ascii_lowercase().into() }
}

/// How far a signed timestamp may be from our clock, either way (`wire/aliyun`, common parameters).
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// The kernel's default `overflowuid`: what a user without a mapping into our namespace looks like.
const OVERFLOW_UID: u32 = 65534;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::claim::{Proof, UnixPeer};

    /// Signs with the secret itself.
    struct Plain<'r>(&'r [u8]);

    impl Proof for Plain<'_> {
        fn verify(&self, key: &SigningKey) -> bool {
            key.is_of(&Secret::copied(self.0))
        }

        fn string_to_sign(&self) -> Option<String> {
            Some("what was signed".to_owned())
        }

        fn tag(&self) -> &[u8] {
            self.0
        }
    }

    const NOW: Moment = Moment::BOOT;

    fn wall() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn entry(name: &str, listener: &str, identity: Identity) -> Entry {
        Entry { name: CallerName::new(name), listener: ListenerName::new(listener), identity }
    }

    fn access_key(id: &str, secret: &str) -> Identity {
        Identity::AccessKey { id: id.to_owned(), secret: Secret::copied(secret.as_bytes()) }
    }

    fn certificate(name: &str) -> Identity {
        Identity::Certificate { name: name.to_owned() }
    }

    fn unix(listener: &str, uid: Option<u32>) -> Peer {
        let origin = PeerOrigin::Unix(uid.map(|uid| UnixPeer { uid, gid: 0 }));
        Peer { listener: ListenerName::new(listener), origin, certificate_names: [].into() }
    }

    fn tcp(listener: &str, certificate_names: &[&str]) -> Peer {
        let origin = PeerOrigin::Tcp(([127, 0, 0, 1], 4000).into());
        let certificate_names = certificate_names.iter().map(|name| Box::from(*name)).collect();
        Peer { listener: ListenerName::new(listener), origin, certificate_names }
    }

    fn signed<'r>(id: &'r str, secret: &'r str, nonce: Option<&'r str>, signed_at: Timestamp) -> Claim<'r> {
        let proof = Box::new(Plain(secret.as_bytes()));
        Claim::Signed(Signed { access_key_id: id, signed_at, nonce, proof })
    }

    fn name(admitted: Result<Caller, Fault>) -> Result<String, Kind> {
        admitted.map(|caller| caller.name().to_string()).map_err(|fault| fault.kind().clone())
    }

    fn two_listeners() -> Door {
        Door::new(vec![
            entry("ack", "a", access_key("id-a", "secret-a")),
            entry("vault", "b", access_key("id-b", "secret-b")),
        ])
        .unwrap()
    }

    fn ask(door: &Door, listener: &str, claim: &Claim<'_>) -> Result<String, Kind> {
        name(door.admit(&tcp(listener, &[]), claim, NOW, wall()))
    }

    #[test]
    fn other_guests_are_admitted_at_once_and_a_nonce_stays_used_up_even_if_its_key_was_gone_meanwhile() {
        let door = two_listeners();
        let once = |nonce| ask(&door, "a", &signed("id-a", "secret-a", Some(nonce), wall()));
        assert_eq!(once("1"), Ok("ack".to_owned()));
        let renamed = || vec![entry("other", "a", access_key("id-a", "secret-a"))];
        assert!(door.knows(&entry("ack", "a", access_key("id-a", "secret-a"))));
        for stranger in [
            entry("ack", "a", access_key("id-a", "another-secret")),
            entry("ack", "b", access_key("id-a", "secret-a")),
            entry("other", "a", access_key("id-a", "secret-a")),
        ] {
            assert!(!door.knows(&stranger), "{stranger:?}");
        }
        let guests = door.invite(renamed()).unwrap();
        assert_eq!(once("2"), Ok("ack".to_owned()), "not before they are let in");
        door.admit_only(guests, NOW);
        assert_eq!((once("2"), once("3")), (Err(Kind::NonceUsed), Ok("other".to_owned())));
        door.admit_only(door.invite(Vec::new()).unwrap(), NOW);
        assert_eq!(once("4"), Err(Kind::UnknownAccessKey));
        door.admit_only(door.invite(renamed()).unwrap(), NOW + Duration::from_secs(60));
        assert_eq!((once("3"), once("4")), (Err(Kind::NonceUsed), Ok("other".to_owned())));
    }

    #[test]
    fn the_nonces_of_a_key_that_is_gone_are_forgotten_when_they_could_not_be_used_again() {
        let door = two_listeners();
        ask(&door, "a", &signed("id-a", "secret-a", Some("1"), wall())).unwrap();
        let memories = || door.replays.lock().unwrap().len();
        let nobody = || door.invite(Vec::new()).unwrap();
        door.admit_only(nobody(), NOW + WINDOW);
        assert_eq!(memories(), 1);
        door.admit_only(nobody(), NOW + WINDOW + Duration::from_secs(1));
        assert_eq!(memories(), 0);
    }

    #[test]
    fn a_signature_opens_only_the_listener_of_its_key() {
        let door = two_listeners();
        assert_eq!(ask(&door, "a", &signed("id-a", "secret-a", Some("1"), wall())), Ok("ack".to_owned()));
        for listener in ["b", "nowhere"] {
            let claim = signed("id-a", "secret-a", Some("2"), wall());
            assert_eq!(ask(&door, listener, &claim), Err(Kind::UnknownAccessKey));
        }
    }

    #[test]
    fn an_unknown_access_key_costs_a_verification_too_and_never_passes() {
        struct Counted(std::cell::Cell<u32>);
        struct Counting<'c>(&'c Counted);
        impl Proof for Counting<'_> {
            fn verify(&self, _: &SigningKey) -> bool {
                self.0.0.set(self.0.0.get() + 1);
                true
            }
            fn string_to_sign(&self) -> Option<String> {
                None
            }
            fn tag(&self) -> &[u8] {
                b"tag"
            }
        }
        let count = Counted(std::cell::Cell::new(0));
        let proof = Box::new(Counting(&count));
        let claim = Claim::Signed(Signed { access_key_id: "none", signed_at: wall(), nonce: None, proof });
        assert_eq!(ask(&two_listeners(), "a", &claim), Err(Kind::UnknownAccessKey));
        assert_eq!(count.0.get(), 1);
    }

    #[test]
    fn a_timestamp_is_good_for_fifteen_minutes_either_way() {
        let door = two_listeners();
        for (nonce, seconds, expected) in [
            ("1", -900, Ok("ack".to_owned())),
            ("2", 900, Ok("ack".to_owned())),
            ("3", -901, Err(Kind::StaleTimestamp)),
            ("4", 901, Err(Kind::StaleTimestamp)),
        ] {
            let at = wall() + jiff::SignedDuration::from_secs(seconds);
            assert_eq!(ask(&door, "a", &signed("id-a", "secret-a", Some(nonce), at)), expected);
        }
    }

    #[test]
    fn a_wrong_signature_shows_what_was_to_be_signed_and_burns_no_nonce() {
        let door = two_listeners();
        let wrong = Err(Kind::BadSignature(Some("what was signed".to_owned())));
        assert_eq!(ask(&door, "a", &signed("id-a", "guess", Some("n"), wall())), wrong);
        assert_eq!(ask(&door, "a", &signed("id-a", "secret-a", Some("n"), wall())), Ok("ack".to_owned()));
    }

    #[test]
    fn a_nonce_passes_once_whatever_the_listener() {
        let door = Door::new(vec![
            entry("ack", "a", access_key("id", "secret")),
            entry("other", "b", access_key("id", "secret")),
        ])
        .unwrap();
        assert_eq!(ask(&door, "a", &signed("id", "secret", Some("n"), wall())), Ok("ack".to_owned()));
        for listener in ["a", "b"] {
            let claim = signed("id", "secret", Some("n"), wall());
            assert_eq!(ask(&door, listener, &claim), Err(Kind::NonceUsed));
        }
    }

    #[test]
    fn without_a_nonce_the_same_signature_passes_once() {
        let door = two_listeners();
        assert_eq!(ask(&door, "a", &signed("id-a", "secret-a", None, wall())), Ok("ack".to_owned()));
        assert_eq!(ask(&door, "a", &signed("id-a", "secret-a", Some(""), wall())), Err(Kind::NonceUsed));
    }

    #[test]
    fn of_sixty_four_threads_with_one_nonce_one_passes() {
        let (door, start) = (two_listeners(), Barrier::new(64));
        let passed = thread::scope(|scope| {
            let attempt = || {
                start.wait();
                ask(&door, "a", &signed("id-a", "secret-a", Some("n"), wall()))
            };
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(passed, 1);
    }

    #[test]
    fn a_certificate_is_known_by_any_of_its_names() {
        let door = Door::new(vec![
            entry("ack", "a", certificate("spiffe://cluster/ns/kube-system/sa/Ack")),
            entry("vault", "a", certificate("Vault.example")),
        ])
        .unwrap();
        let ask = |names: &[&str]| name(door.admit(&tcp("a", names), &Claim::Anonymous, NOW, wall()));
        assert_eq!(ask(&["spiffe://cluster/ns/kube-system/sa/Ack"]), Ok("ack".to_owned()));
        assert_eq!(ask(&["unlisted", "vault.EXAMPLE"]), Ok("vault".to_owned()));
        assert_eq!(ask(&["spiffe://cluster/ns/kube-system/sa/ack"]), Err(Kind::Unauthenticated));
        assert_eq!(ask(&["vault.example", "spiffe://cluster/ns/kube-system/sa/Ack"]), Err(Kind::Unauthenticated));
        assert_eq!(ask(&[]), Err(Kind::Unauthenticated));
    }

    #[test]
    fn a_uid_is_known_unless_it_is_missing_or_from_another_namespace() {
        let door = Door::new(vec![entry("ack", "a", Identity::Unix { uid: 1000 })]).unwrap();
        let ask = |uid| name(door.admit(&unix("a", uid), &Claim::Anonymous, NOW, wall()));
        assert_eq!(ask(Some(1000)), Ok("ack".to_owned()));
        for uid in [None, Some(0), Some(OVERFLOW_UID)] {
            assert_eq!(ask(uid), Err(Kind::Unauthenticated));
        }
    }

    #[test]
    fn whoever_reaches_the_socket_is_its_caller_unless_the_uid_says_otherwise() {
        let door = Door::new(vec![
            entry("plugin", "a", Identity::Listener),
            entry("operator", "a", Identity::Unix { uid: 0 }),
        ])
        .unwrap();
        let ask = |uid| name(door.admit(&unix("a", uid), &Claim::Anonymous, NOW, wall()));
        assert_eq!(ask(None), Ok("plugin".to_owned()));
        assert_eq!(ask(Some(OVERFLOW_UID)), Ok("plugin".to_owned()));
        assert_eq!(ask(Some(0)), Ok("operator".to_owned()));
    }

    #[test]
    fn a_signature_must_hold_even_where_the_socket_would_do() {
        let door = Door::new(vec![entry("plugin", "a", Identity::Listener)]).unwrap();
        assert_eq!(ask(&door, "a", &Claim::Anonymous), Ok("plugin".to_owned()));
        assert_eq!(ask(&door, "a", &signed("id", "secret", None, wall())), Err(Kind::UnknownAccessKey));
    }

    #[test]
    fn identities_of_one_caller_are_alternatives() {
        let door = Door::new(vec![
            entry("ack", "a", access_key("id", "secret")),
            entry("ack", "a", certificate("ack.example")),
        ])
        .unwrap();
        assert_eq!(ask(&door, "a", &signed("id", "secret", None, wall())), Ok("ack".to_owned()));
        let peer = tcp("a", &["ack.example"]);
        assert_eq!(name(door.admit(&peer, &Claim::Anonymous, NOW, wall())), Ok("ack".to_owned()));
    }

    #[test]
    fn one_proof_for_two_entries_is_a_mistake() {
        type Make = fn() -> Identity;
        let kinds: [(Make, &str); 4] = [
            (|| access_key("id", "x"), "access key id"),
            (|| certificate("c"), "certificate name c"),
            (|| Identity::Unix { uid: 7 }, "uid 7"),
            (|| Identity::Listener, "whoever reaches the socket"),
        ];
        for (identity, proof) in kinds {
            let mistake = Door::new(vec![entry("one", "a", identity()), entry("two", "a", identity())]).unwrap_err();
            let (first, second) = (CallerName::new("one"), CallerName::new("two"));
            let (proof, listener) = (proof.to_owned(), "a".to_owned());
            assert_eq!(mistake, EntryError::Ambiguous { first, second, proof, listener });
            assert!(Door::new(vec![entry("one", "a", identity()), entry("two", "b", identity())]).is_ok());
        }
    }

    #[test]
    fn identities_that_prove_nothing_are_mistakes() {
        let caller = CallerName::new("one");
        let mistake = |identity| Door::new(vec![entry("one", "a", identity)]).unwrap_err();
        let empty = |what| EntryError::Empty { caller: caller.clone(), what };
        assert_eq!(mistake(access_key("", "x")), empty("access_key.id"));
        assert_eq!(mistake(access_key("id", "")), empty("the access key's secret"));
        assert_eq!(mistake(certificate("")), empty("certificate_name"));
        assert_eq!(mistake(Identity::Unix { uid: OVERFLOW_UID }), EntryError::OverflowUid(caller.clone()));
    }
}
