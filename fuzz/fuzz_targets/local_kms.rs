//! The embedded KMS: what it wraps it unwraps, for an equal context alone and with no octet of the blob another.
#![no_main]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kmsproxy::chance;
use kmsproxy::clock::{Clock, Deadline, System};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Call, Ciphertext, Context, ContextForm, Decrypt, Encrypt, Extra, KeyName};
use kmsproxy::policy::{Held, Permit, Policy};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::Upstream;
use kmsproxy::upstream::local::{DEFAULT_ALIAS, Local};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

struct Scene {
    runtime: Runtime,
    kms: Arc<Local>,
    permit: Permit,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let kms = Local::in_memory(Arc::new(System));
    kms.ensure_default_key().expect("there is room for one key");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    Scene { runtime, kms, permit: Policy::new(HashMap::new()).probe() }
});

fuzz_target!(|input: &[u8]| {
    let Some(([at, bit], rest)) = input.split_first_chunk() else { return };
    // When it answers and whether it fails are drawn: here the same each time, and without asking the kernel.
    chance::repeat(0);
    let mut parts = Parts::of(rest);
    let plaintext = parts.bytes();
    if plaintext.is_empty() {
        return;
    }
    let context = context(&mut parts);
    let wrapped = asked(Call::Encrypt(Encrypt {
        key: KeyName::new(DEFAULT_ALIAS),
        plaintext: Secret::copied(plaintext),
        context: context.clone(),
        dry_run: false,
        extra: Extra::default(),
    }));
    let wrapped = wrapped.expect("it is enabled");
    let blob = wrapped.encrypted().expect("to an Encrypt").ciphertext.bytes().to_vec();
    assert_eq!(unwrapped(&blob, context.as_ref()).as_ref().map(Secret::expose), Ok(plaintext));
    let mut other = blob.clone();
    let place = usize::from(*at) % (blob.len() + 1);
    match other.get_mut(place) {
        Some(octet) => *octet ^= 1 << (bit & 7),
        None => other.truncate(blob.len() - 1),
    }
    assert_eq!(unwrapped(&other, context.as_ref()).err(), Some(Kind::InvalidCiphertext));
    let another = self::context(&mut parts);
    let same = pairs(context.as_ref()) == pairs(another.as_ref());
    assert_eq!(
        unwrapped(&blob, another.as_ref()).is_ok(),
        same,
        "{:?}",
        (pairs(context.as_ref()), pairs(another.as_ref()))
    );
    assert!(unwrapped(rest, None).is_err());
});

/// None, or as many pairs as the first octet of the next part says.
fn context(parts: &mut Parts<'_>) -> Option<Context> {
    let count = parts.bytes().first().map(|count| count & 3)?;
    let pairs = (0..count).map(|_| (parts.text().into(), parts.text().into())).collect();
    Context::new(ContextForm::Json, "", pairs)
}

type Pairs = Vec<(Box<str>, Box<str>)>;

fn pairs(context: Option<&Context>) -> Option<Pairs> {
    context.map(|context| context.pairs().to_vec())
}

fn unwrapped(blob: &[u8], context: Option<&Context>) -> Result<Secret, Kind> {
    let held = asked(Call::Decrypt(Decrypt {
        ciphertext: Ciphertext::new(blob.to_vec()),
        key: None,
        context: context.cloned(),
        dry_run: false,
        extra: Extra::default(),
    }));
    let held = held.map_err(|fault| fault.kind().clone())?;
    Ok(held.sealed_by(|reply| Secret::copied(reply.plaintext.expose())).expect("to a Decrypt"))
}

fn asked(call: Call) -> Result<Held, Fault> {
    let Scene { runtime, kms, permit } = &*SCENE;
    let deadline = Deadline::after(System.now(), Duration::from_secs(60));
    runtime.block_on(kms.ask(permit, &call, deadline))
}
