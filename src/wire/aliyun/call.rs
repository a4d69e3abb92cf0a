//! What the parameters of a request ask.

use std::borrow::Cow;

use super::context;
use super::parameters::Parameters;
use crate::fault::{Fault, Kind};
use crate::kms::{
    Action, Call, Ciphertext, Context, DataKeySize, Decrypt, Encrypt, Extra, GenerateDataKey, KeyName, Read,
};
use crate::secret::Secret;
use crate::wire::base64;

/// Reads the call `action`, whose name is matched exactly, as every name of the API is.
pub(super) fn decode(action: &str, parameters: &Parameters<'_>) -> Result<Call, Fault> {
    let action = Action::ALL.into_iter().find(|known| known.name() == action);
    let action = action.ok_or_else(|| Fault::caller(Kind::UnknownAction))?;
    let mut fields = Fields { parameters, taken: 0 };
    match action {
        Action::Decrypt => fields.decrypt(),
        Action::Encrypt => fields.encrypt(),
        Action::GenerateDataKey => fields.generate(true),
        Action::GenerateDataKeyWithoutPlaintext => fields.generate(false),
        Action::DescribeKey | Action::ListAliasesByKeyId | Action::ListKeyVersions => fields.read_key(action),
        Action::DescribeKeyVersion => {
            fields.required("KeyVersionId")?;
            fields.taken = 0;
            fields.read_key(action)
        }
        Action::ListAliases | Action::ListKeys => Ok(Call::Read(Read { action, key: None, extra: fields.extra() })),
    }
}

/// The parameters, and which of them have been understood: what is left over is not ours to judge.
struct Fields<'p, 'r> {
    parameters: &'p Parameters<'r>,
    taken: u64,
}

impl<'r> Fields<'_, 'r> {
    fn decrypt(mut self) -> Result<Call, Fault> {
        let ciphertext = Ciphertext::new(self.blob("CiphertextBlob")?);
        let (context, dry_run) = (self.context()?, self.dry_run()?);
        Ok(Call::Decrypt(Decrypt { ciphertext, key: None, context, dry_run, extra: self.extra() }))
    }

    fn encrypt(mut self) -> Result<Call, Fault> {
        let (key, plaintext) = (self.key()?, Secret::new(self.blob("Plaintext")?));
        let (context, dry_run) = (self.context()?, self.dry_run()?);
        Ok(Call::Encrypt(Encrypt { key, plaintext, context, dry_run, extra: self.extra() }))
    }

    fn generate(mut self, plaintext: bool) -> Result<Call, Fault> {
        let (key, size) = (self.key()?, self.size()?);
        let (context, dry_run) = (self.context()?, self.dry_run()?);
        Ok(Call::GenerateDataKey(GenerateDataKey { key, size, plaintext, context, dry_run, extra: self.extra() }))
    }

    fn read_key(mut self, action: Action) -> Result<Call, Fault> {
        let key = Some(self.key()?);
        Ok(Call::Read(Read { action, key, extra: self.extra() }))
    }

    fn take(&mut self, name: &str) -> Option<Cow<'r, str>> {
        let at = self.parameters.position(name)?;
        self.taken |= 1 << at;
        Some(self.parameters.value(at))
    }

    fn required(&mut self, name: &str) -> Result<Cow<'r, str>, Fault> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| Fault::caller(Kind::MissingParameter(name.into())))
    }

    fn key(&mut self) -> Result<KeyName, Fault> {
        self.required("KeyId").map(|name| KeyName::new(&name))
    }

    fn blob(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        let text = self.required(name)?;
        let bytes = base64::decode(text.as_bytes());
        if let Cow::Owned(text) = text {
            drop(Secret::new(text.into_bytes()));
        }
        bytes.ok_or_else(|| invalid(name))
    }

    fn size(&mut self) -> Result<DataKeySize, Fault> {
        let spec = match self.take("KeySpec").as_deref() {
            None => DataKeySize::Default,
            Some("AES_128") => DataKeySize::Aes128,
            Some("AES_256") => DataKeySize::Aes256,
            Some(_) => return Err(invalid("KeySpec")),
        };
        let Some(count) = self.take("NumberOfBytes") else { return Ok(spec) };
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = if digits { count.parse().ok() } else { None };
        let count = count.filter(|count| (1..=DATA_KEY_BYTES_MAX).contains(count));
        count.map(DataKeySize::Bytes).ok_or_else(|| invalid("NumberOfBytes"))
    }

    fn dry_run(&mut self) -> Result<bool, Fault> {
        match self.take("DryRun").as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid("DryRun")),
        }
    }

    fn context(&mut self) -> Result<Option<Context>, Fault> {
        let json = self.take("EncryptionContext");
        let mut pairs: Vec<(Box<str>, Box<str>)> = Vec::new();
        for (at, parameter) in self.parameters.iter().enumerate() {
            let Some(name) = parameter.name().strip_prefix(FLATTENED) else { continue };
            self.taken |= 1 << at;
            pairs.push((name.into(), parameter.value().into()));
        }
        match json {
            Some(_) if !pairs.is_empty() => Err(invalid("EncryptionContext")),
            Some(text) => context::parse(&text).map(Some),
            None if pairs.is_empty() => Ok(None),
            None => context::flattened(pairs).map(Some),
        }
    }

    fn extra(&self) -> Extra {
        let left = self.parameters.iter().enumerate().filter(|(at, _)| self.taken & 1 << at == 0);
        let relayed = left.map(|(_, parameter)| parameter).filter(|parameter| !is_common(parameter.name()));
        Extra(relayed.map(|parameter| (parameter.name().to_owned(), parameter.value().into_owned())).collect())
    }
}

/// Whether a parameter belongs to the transport: ours is another, so it goes no further than us.
fn is_common(name: &str) -> bool {
    name.starts_with("Signature") || COMMON.contains(&name)
}

fn invalid(name: &str) -> Fault {
    Fault::caller(Kind::InvalidParameter(name.into()))
}

/// What comes before the name of a pair of a flattened context.
pub(super) const FLATTENED: &str = "EncryptionContext.";
const COMMON: [&str; 9] =
    ["AccessKeyId", "Action", "BearerToken", "Format", "RegionId", "STSToken", "SecurityToken", "Timestamp", "Version"];
const DATA_KEY_BYTES_MAX: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(action: &str, query: &str) -> Result<Call, Kind> {
        decode(action, &Parameters::parse(query, "").unwrap()).map_err(|fault| fault.kind().clone())
    }

    fn invalid(name: &str) -> Result<Call, Kind> {
        Err(Kind::InvalidParameter(name.into()))
    }

    fn missing(name: &str) -> Result<Call, Kind> {
        Err(Kind::MissingParameter(name.into()))
    }

    #[test]
    fn what_belongs_to_the_transport_is_dropped_and_what_is_unknown_is_kept_apart() {
        let query = "AccessKeyId=a&Action=x&CiphertextBlob=QUI%3D&Format=JSON&KeyId=k&New=%2B&RegionId=r&STSToken=t\
            &SecurityToken=t&Signature=s&SignatureMethod=m&SignatureNewer=n&SignatureNonce=n&SignatureType=\
            &SignatureVersion=1.0&Timestamp=t&Version=v&DryRun=false";
        let expected = Decrypt {
            ciphertext: Ciphertext::new(b"AB".to_vec()),
            key: None,
            context: None,
            dry_run: false,
            extra: Extra(vec![("KeyId".to_owned(), "k".to_owned()), ("New".to_owned(), "+".to_owned())]),
        };
        assert_eq!(decoded("Decrypt", query), Ok(Call::Decrypt(expected)));
    }

    #[test]
    fn only_the_relayed_actions_are_known_and_only_as_they_are_spelled() {
        for action in ["DisableKey", "CreateKey", "ScheduleKeyDeletion", "ReEncrypt", "decrypt", "", "Decrypt "] {
            assert_eq!(decoded(action, "CiphertextBlob=QUI%3D&KeyId=k"), Err(Kind::UnknownAction), "{action}");
        }
    }

    #[test]
    fn required_parameters_are_missed_by_name() {
        assert_eq!(decoded("Decrypt", "ciphertextblob=QUI%3D"), missing("CiphertextBlob"));
        assert_eq!(decoded("Decrypt", "CiphertextBlob="), missing("CiphertextBlob"));
        assert_eq!(decoded("Encrypt", "Plaintext=QUI%3D"), missing("KeyId"));
        assert_eq!(decoded("Encrypt", "KeyId=k"), missing("Plaintext"));
        assert_eq!(decoded("GenerateDataKey", ""), missing("KeyId"));
        assert_eq!(decoded("DescribeKey", ""), missing("KeyId"));
        assert_eq!(decoded("DescribeKeyVersion", "KeyId=k"), missing("KeyVersionId"));
    }

    #[test]
    fn a_bad_value_is_refused_by_name() {
        for blob in ["QUI", "QUJ=", "QUI+", "QU%20I=", "_-8="] {
            assert_eq!(decoded("Decrypt", &format!("CiphertextBlob={blob}")), invalid("CiphertextBlob"), "{blob}");
        }
        for count in ["0", "1025", "-1", "%2B1", "1.5", "", "99999999"] {
            let query = format!("KeyId=k&NumberOfBytes={count}");
            assert_eq!(decoded("GenerateDataKey", &query), invalid("NumberOfBytes"), "{count}");
        }
        assert_eq!(decoded("GenerateDataKey", "KeyId=k&KeySpec=AES_512"), invalid("KeySpec"));
        assert_eq!(decoded("GenerateDataKey", "KeyId=k&DryRun=True"), invalid("DryRun"));
    }

    #[test]
    fn a_context_comes_in_one_form_only() {
        let both = "CiphertextBlob=QUI%3D&EncryptionContext=%7B%7D&EncryptionContext.a=1";
        assert_eq!(decoded("Decrypt", both), invalid("EncryptionContext"));
        let flat = "CiphertextBlob=QUI%3D&EncryptionContext.b=%20&EncryptionContext.a=1";
        let Ok(Call::Decrypt(call)) = decoded("Decrypt", flat) else { panic!("it is a Decrypt") };
        let expected = context::flattened(vec![("a".into(), "1".into()), ("b".into(), " ".into())]).unwrap();
        assert_eq!((call.shareable(), call.context, call.extra), (false, Some(expected), Extra::default()));
    }

    #[test]
    fn an_empty_context_is_not_an_absent_one() {
        let Ok(Call::Decrypt(call)) = decoded("Decrypt", "CiphertextBlob=QUI%3D&EncryptionContext=%7B%7D") else {
            panic!("it is a Decrypt")
        };
        assert_eq!(call.context, Some(context::parse("{}").unwrap()));
    }

    #[test]
    fn the_number_of_bytes_wins_over_the_spec() {
        let query = "KeyId=alias%2Fk&KeySpec=AES_128&NumberOfBytes=1024";
        let expected = GenerateDataKey {
            key: KeyName::new("alias/k"),
            size: DataKeySize::Bytes(1024),
            plaintext: false,
            context: None,
            dry_run: false,
            extra: Extra::default(),
        };
        let decoded = decoded("GenerateDataKeyWithoutPlaintext", query);
        assert_eq!(decoded, Ok(Call::GenerateDataKey(expected)));
    }

    #[test]
    fn a_read_relays_its_other_parameters() {
        let extra = Extra(vec![("KeyVersionId".to_owned(), "v".to_owned())]);
        let read = Read { action: Action::DescribeKeyVersion, key: Some(KeyName::new("k")), extra };
        assert_eq!(decoded("DescribeKeyVersion", "KeyId=k&KeyVersionId=v&Format=XML"), Ok(Call::Read(read)));
    }
}
