//! What is generated: every call, and what may be answered to it.

use std::collections::BTreeMap;

use kmsproxy::fault::Verbatim;
use kmsproxy::kms::{
    Action, Call, Ciphertext, Context, ContextForm, DataKey, DataKeySize, Decrypt, Decrypted, Document, Encrypt,
    Encrypted, Extra, GenerateDataKey, KeyId, KeyName, KeyState, KeyVersion, Read, Reply, RequestId,
};
use kmsproxy::secret::Secret;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Every sort of call.
pub(crate) fn call() -> impl Strategy<Value = Call> {
    prop_oneof![2 => decrypt(), 2 => encrypt(), 3 => generate(), 4 => read()]
}

fn decrypt() -> impl Strategy<Value = Call> {
    (bytes(), options()).prop_map(|(ciphertext, (context, dry_run, extra))| {
        Call::Decrypt(Decrypt { ciphertext: Ciphertext::new(ciphertext), key: None, context, dry_run, extra })
    })
}

fn encrypt() -> impl Strategy<Value = Call> {
    (key_name(), bytes(), options()).prop_map(|(key, plaintext, (context, dry_run, extra))| {
        Call::Encrypt(Encrypt { key, plaintext: Secret::new(plaintext), context, dry_run, extra })
    })
}

fn generate() -> impl Strategy<Value = Call> {
    let size = prop_oneof![
        Just(DataKeySize::Default),
        Just(DataKeySize::Aes128),
        Just(DataKeySize::Aes256),
        (1..=1024_u16).prop_map(DataKeySize::Bytes),
    ];
    (key_name(), size, any::<bool>(), options()).prop_map(|(key, size, plaintext, (context, dry_run, extra))| {
        Call::GenerateDataKey(GenerateDataKey { key, size, plaintext, context, dry_run, extra })
    })
}

fn read() -> impl Strategy<Value = Call> {
    let action = prop::sample::select(vec![
        Action::DescribeKey,
        Action::DescribeKeyVersion,
        Action::ListAliases,
        Action::ListAliasesByKeyId,
        Action::ListKeyVersions,
        Action::ListKeys,
    ]);
    (action, key_name(), extra(), text()).prop_map(|(action, key, mut extra, version)| {
        let key = (!matches!(action, Action::ListAliases | Action::ListKeys)).then_some(key);
        if action == Action::DescribeKeyVersion {
            extra.0.push(("KeyVersionId".to_owned(), version));
            extra.0.sort();
        }
        Call::Read(Read { action, key, extra })
    })
}

fn options() -> impl Strategy<Value = (Option<Context>, bool, Extra)> {
    (option::of(context()), any::<bool>(), prop_oneof![Just(Extra::default()), extra()])
}

fn context() -> impl Strategy<Value = Context> {
    let pairs = btree_map(any::<String>(), any::<String>(), 0..6);
    (pairs, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(pairs, flattened, escaped, backwards)| {
        let spelled = |order: Vec<(&String, &String)>| {
            let string = |text: &str| if escaped { escape(text) } else { serde_json::to_string(text).unwrap() };
            let pair = |(name, value): (&String, &String)| format!("{} : {}", string(name), string(value));
            format!(" {{{} }}", order.into_iter().map(pair).collect::<Vec<_>>().join(",\n"))
        };
        // Nothing is left of a flattened context without pairs: on the wire it is no context.
        let (form, text) = match (flattened && !pairs.is_empty(), backwards) {
            (true, _) => (ContextForm::Flattened, serde_json::to_string(&pairs).unwrap()),
            (false, true) => (ContextForm::Json, spelled(pairs.iter().rev().collect())),
            (false, false) => (ContextForm::Json, spelled(pairs.iter().collect())),
        };
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Context::new(form, &text, pairs).unwrap()
    })
}

/// A JSON string in which everything is escaped.
fn escape(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{units}\"")
}

/// Parameters that no call knows, in the order in which they are read.
fn extra() -> impl Strategy<Value = Extra> {
    let name = prop_oneof!["[A-Z][A-Za-z.0-9]{0,11}", text()].prop_filter("has a meaning", |name| {
        let known = ["Signature", "EncryptionContext"].iter().any(|start| name.starts_with(start));
        !known && !MEANT.contains(&name.as_str())
    });
    btree_map(name, any::<String>(), 0..5).prop_map(|pairs| Extra(pairs.into_iter().collect()))
}

fn key_name() -> impl Strategy<Value = KeyName> {
    let name = prop_oneof![
        "key-[a-z0-9]{8}",
        "alias/[a-z/_-]{1,12}",
        "acs:kms:cn-[a-z]{4,9}:[0-9]{16}:key/[a-z0-9-]{8}",
        "acs:kms:cn-[a-z]{4,9}:[0-9]{16}:alias/[a-z]{1,8}",
        text(),
    ];
    name.prop_map(|name| KeyName::new(&name))
}

/// What an answer to any call can be made of.
#[derive(Debug)]
pub(crate) struct Words {
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    key: String,
    version: String,
    state: &'static str,
    subject: Map<String, Value>,
    beside: Map<String, Value>,
    pub(crate) request_id: String,
}

pub(crate) fn words() -> impl Strategy<Value = Words> {
    let state = prop::sample::select(STATES.map(|(state, _)| state).to_vec());
    let texts = (text(), any::<String>(), text());
    (bytes(), bytes(), texts, state, members(), members()).prop_map(
        |(plaintext, ciphertext, (key, version, request_id), state, subject, beside)| Words {
            plaintext,
            ciphertext,
            key,
            version,
            state,
            subject,
            beside,
            request_id,
        },
    )
}

impl Words {
    /// An answer to `call`. Where the call names a key by its id, in an ARN or not, it is about that key.
    pub(crate) fn reply_to(&self, call: &Call) -> Reply {
        let key = KeyId::new(call.key().and_then(|name| named_id(name.as_str())).unwrap_or(&self.key));
        let version = KeyVersion::new(&self.version);
        let plaintext = Secret::copied(&self.plaintext);
        let ciphertext = Ciphertext::new(self.ciphertext.clone());
        match call {
            Call::Decrypt(_) => Reply::Decrypted(Decrypted { plaintext, key, version }),
            Call::Encrypt(_) => Reply::Encrypted(Encrypted { ciphertext, key, version }),
            Call::GenerateDataKey(asked) => {
                let plaintext = asked.plaintext.then_some(plaintext);
                Reply::DataKey(DataKey { plaintext, ciphertext, key, version })
            }
            Call::Read(read) => Reply::Document(self.document(read.action, key)),
        }
    }

    fn document(&self, action: Action, key: KeyId) -> Document {
        let name = match action {
            Action::DescribeKey => "KeyMetadata",
            Action::DescribeKeyVersion => "KeyVersion",
            Action::ListAliases | Action::ListAliasesByKeyId => "Aliases",
            Action::ListKeyVersions => "KeyVersions",
            Action::ListKeys => "Keys",
            Action::Decrypt | Action::Encrypt | Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext => {
                unreachable!("no read")
            }
        };
        let (mut members, mut subject) = (self.beside.clone(), self.subject.clone());
        let described = action == Action::DescribeKey;
        if described {
            subject.insert("KeyId".to_owned(), key.as_str().into());
            subject.insert("KeyState".to_owned(), self.state.into());
        }
        members.insert(name.to_owned(), subject.into());
        let state = STATES.iter().find(|(state, _)| *state == self.state).unwrap().1;
        Document { members, described: described.then_some((key, state)) }
    }
}

/// The id in the name of a key; none behind an alias.
fn named_id(name: &str) -> Option<&str> {
    let resource = if name.starts_with("acs:kms:") { name.rsplit(':').next()? } else { name };
    (!resource.starts_with("alias/")).then(|| resource.strip_prefix("key/").unwrap_or(resource))
}

/// An error in the words of a KMS, but for status and code.
pub(crate) fn verbatim() -> impl Strategy<Value = Verbatim> {
    let texts = (any::<String>(), text(), option::of(any::<String>()), option::of(any::<String>()));
    texts.prop_map(|(message, request_id, host_id, recommend)| Verbatim {
        status: 0,
        code: String::new(),
        message,
        request_id: RequestId::new(&request_id),
        host_id,
        recommend,
    })
}

/// Any text but the empty one.
pub(crate) fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_filter("empty", |text| !text.is_empty())
}

/// From one byte to the 6 KiB that the KMS takes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![9 => vec(any::<u8>(), 1..100), 1 => vec(any::<u8>(), 100..=6144)]
}

fn members() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(any::<String>(), inner, 0..4).prop_map(|members| object(members).into()),
        ]
    });
    btree_map(text(), value, 0..4).prop_map(object)
}

fn object(members: BTreeMap<String, Value>) -> Map<String, Value> {
    members.into_iter().collect()
}

const STATES: [(&str, KeyState); 5] = [
    ("Enabled", KeyState::Enabled),
    ("Disabled", KeyState::Disabled),
    ("PendingDeletion", KeyState::PendingDeletion),
    ("PendingImport", KeyState::PendingImport),
    ("Replicating", KeyState::Unavailable),
];
/// Names of parameters that are not left over by every call, and those of the transport.
const MEANT: [&str; 15] = [
    "AccessKeyId",
    "Action",
    "BearerToken",
    "CiphertextBlob",
    "DryRun",
    "Format",
    "KeyId",
    "KeySpec",
    "NumberOfBytes",
    "Plaintext",
    "RegionId",
    "STSToken",
    "SecurityToken",
    "Timestamp",
    "Version",
];
