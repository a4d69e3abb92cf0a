//! What the KMS does with a call, over one unchanging keyring: parameters, then the key, then its state, then the
//! work, then the dry run.

use std::sync::Arc;

use jiff::Timestamp;

use crate::fault::{Fault, Kind};
use crate::kms::{
    Call, Ciphertext, Context, DataKey, DataKeySize, Decrypt, Decrypted, Encrypt, Encrypted, GenerateDataKey, KeyState,
    Reply,
};
use crate::secret::Secret;
use crate::upstream::local::blob;
use crate::upstream::local::key::{Key, Version};
use crate::upstream::local::keyring::{Holder, Keyring};
use crate::upstream::local::reads;

/// Whether the parameters can be at all, whatever the key. The limits are those of the API pages of `Encrypt` and
/// `GenerateDataKey` (fact sheet, section 2); 6 KiB are counted after base64 is undone, which is not documented.
pub(super) fn check(call: &Call) -> Result<(), Fault> {
    let (context, size, plaintext) = match call {
        Call::Decrypt(call) => (call.context.as_ref(), None, None),
        Call::Encrypt(call) => (call.context.as_ref(), None, Some(&call.plaintext)),
        Call::GenerateDataKey(call) => (call.context.as_ref(), Some(call.size), None),
        Call::Read(_) => (None, None, None),
    };
    if plaintext.is_some_and(|plaintext| plaintext.is_empty() || plaintext.len() > PLAINTEXT_BYTES_MAX) {
        return Err(invalid("Plaintext"));
    }
    if size.is_some_and(|size| !(1..=DATA_KEY_BYTES_MAX).contains(&bytes_of(size))) {
        return Err(invalid("NumberOfBytes"));
    }
    if context.is_some_and(|context| context.text().chars().count() > CONTEXT_CHARS_MAX) {
        return Err(invalid("EncryptionContext"));
    }
    Ok(())
}

/// The key that a call is about: named, or held by the blob's version. None for account-wide lists.
pub(super) fn subject<'k>(keys: &'k Keyring, call: &Call, now: Timestamp) -> Result<Option<&'k Arc<Key>>, Fault> {
    if let Call::Decrypt(call) = call {
        return Ok(Some(holder(keys, call, now)?.0));
    }
    Ok(call.key().map(|name| keys.find(name.as_str(), now)).transpose()?)
}

/// Carries out a checked call.
pub(super) fn perform(keys: &Keyring, call: &Call, now: Timestamp) -> Result<Reply, Fault> {
    let subject = subject(keys, call, now)?;
    let named = || subject.ok_or_else(|| Fault::kms(Kind::MissingParameter("KeyId".into())));
    match call {
        Call::Decrypt(call) => decrypt(keys, call, now),
        Call::Encrypt(call) => encrypt(named()?, call),
        Call::GenerateDataKey(call) => generate(named()?, call),
        Call::Read(call) => reads::read(keys, subject, call, now).map(Reply::Document),
    }
}

fn decrypt(keys: &Keyring, call: &Decrypt, now: Timestamp) -> Result<Reply, Fault> {
    let (key, version) = holder(keys, call, now)?;
    usable(key)?;
    let plaintext = blob::open(version, call.context.as_ref(), call.ciphertext.bytes())
        .ok_or_else(|| Fault::kms(Kind::InvalidCiphertext))?;
    unless_dry(call.dry_run)?;
    Ok(Reply::Decrypted(Decrypted { plaintext, key: key.id.clone(), version: version.id.clone() }))
}

fn encrypt(key: &Key, call: &Encrypt) -> Result<Reply, Fault> {
    let primary = usable(key)?;
    unless_dry(call.dry_run)?;
    let ciphertext = blob::seal(primary, call.context.as_ref(), &call.plaintext);
    Ok(Reply::Encrypted(Encrypted { ciphertext, key: key.id.clone(), version: primary.id.clone() }))
}

fn generate(key: &Key, call: &GenerateDataKey) -> Result<Reply, Fault> {
    let primary = usable(key)?;
    unless_dry(call.dry_run)?;
    let (plaintext, ciphertext) = data_key(primary, call.context.as_ref(), call.size);
    let plaintext = call.plaintext.then_some(plaintext);
    Ok(Reply::DataKey(DataKey { plaintext, ciphertext, key: key.id.clone(), version: primary.id.clone() }))
}

fn data_key(version: &Version, context: Option<&Context>, size: DataKeySize) -> (Secret, Ciphertext) {
    let mut bytes = vec![0; usize::from(bytes_of(size))];
    getrandom::fill(&mut bytes).expect("the kernel's generator never fails once the machine is up");
    let plaintext = Secret::new(bytes);
    let ciphertext = blob::seal(version, context, &plaintext);
    (plaintext, ciphertext)
}

/// A state that refuses wins over a context or a tag that is wrong; an unknown version has no state to speak of.
fn holder<'k>(keys: &'k Keyring, call: &Decrypt, now: Timestamp) -> Result<Holder<'k>, Fault> {
    let unknown = || Fault::kms(Kind::InvalidCiphertext);
    let version = blob::version_id(call.ciphertext.bytes()).ok_or_else(unknown)?;
    keys.holder(version, now)?.ok_or_else(unknown)
}

/// The state table of the fact sheet, section 4, row "Encrypt, Decrypt, GenerateDataKey".
fn usable(key: &Key) -> Result<&Arc<Version>, Fault> {
    let refusal = match key.state() {
        KeyState::Enabled => return key.primary().ok_or_else(|| Fault::kms(Kind::KeyVersionNotFound)),
        KeyState::Disabled => Kind::KeyDisabled,
        KeyState::PendingDeletion => Kind::KeyPendingDeletion,
        KeyState::PendingImport => Kind::KeyPendingImport,
        KeyState::Unavailable => Kind::KeyUnavailable,
    };
    Err(Fault::kms(refusal))
}

const fn unless_dry(dry_run: bool) -> Result<(), Fault> {
    if dry_run { Err(Fault::kms(Kind::DryRun)) } else { Ok(()) }
}

const fn bytes_of(size: DataKeySize) -> u16 {
    match size {
        DataKeySize::Aes128 => 16,
        DataKeySize::Default | DataKeySize::Aes256 => 32,
        DataKeySize::Bytes(count) => count,
    }
}

fn invalid(parameter: &str) -> Fault {
    Fault::kms(Kind::InvalidParameter(parameter.into()))
}

const PLAINTEXT_BYTES_MAX: usize = 6144;
const DATA_KEY_BYTES_MAX: u16 = 1024;
const CONTEXT_CHARS_MAX: usize = 8192;
