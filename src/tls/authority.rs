//! A throw-away certificate authority, for `dev` and the emulator.

use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, Error, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::secret::Secret;

/// A certificate authority that signed one server certificate and then forgot its key: nobody can make it sign
/// another, so trusting it trusts exactly that certificate. Both are valid from the day before to 30 days later.
///
/// The extensions are those that Go, Node, OpenSSL and Python's strict mode (RFC 5280 to the letter) ask for.
#[derive(Debug)]
pub struct Authority {
    ca: String,
    certificate: String,
    key: Secret,
}

impl Authority {
    /// Makes both certificates, for `127.0.0.1`, `::1`, `localhost` and `names` (DNS names or IP addresses).
    ///
    /// # Errors
    /// Where a name can stand in no certificate.
    pub fn generate(now: Timestamp, names: &[String]) -> Result<Self, Error> {
        let ca = CertifiedIssuer::self_signed(ca_parameters(now)?, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = server_parameters(now, names)?.signed_by(&key, &ca)?;
        Ok(Self { ca: ca.pem(), certificate: certificate.pem(), key: Secret::new(key.serialize_pem().into_bytes()) })
    }

    /// What clients must trust, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// The server's certificate, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The server's key, in PEM (PKCS#8).
    #[must_use]
    pub const fn key_pem(&self) -> &Secret {
        &self.key
    }
}

fn ca_parameters(now: Timestamp) -> Result<CertificateParams, Error> {
    let mut parameters = dated(CertificateParams::new(Vec::new())?, now);
    parameters.distinguished_name.push(DnType::CommonName, format!("kmsproxy throw-away CA of {now:.0}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

fn server_parameters(now: Timestamp, names: &[String]) -> Result<CertificateParams, Error> {
    let mut all: Vec<String> = LOOPBACK_NAMES.iter().map(|name| (*name).to_owned()).collect();
    all.extend(names.iter().filter(|name| !LOOPBACK_NAMES.contains(&name.as_str())).cloned());
    let mut parameters = dated(CertificateParams::new(all)?, now);
    parameters.distinguished_name.push(DnType::CommonName, "kmsproxy");
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn dated(mut parameters: CertificateParams, now: Timestamp) -> CertificateParams {
    let today = Offset::UTC.to_datetime(now).date();
    let at_midnight = |date: jiff::civil::Date| {
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    // The day before, for clients whose clock is behind.
    parameters.not_before = at_midnight(today.saturating_sub(1.day()));
    parameters.not_after = at_midnight(today.saturating_add(VALID_DAYS.days()));
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
}

const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "::1", "localhost"];
const VALID_DAYS: i64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_thirty_days_and_tolerates_a_slow_clock() {
        let now = "2026-12-31T23:59:59Z".parse().unwrap();
        let parameters = ca_parameters(now).unwrap();
        assert_eq!(parameters.not_before, date_time_ymd(2026, 12, 30));
        assert_eq!(parameters.not_after, date_time_ymd(2027, 1, 30));
    }

    #[test]
    fn further_names_are_certified_and_impossible_ones_refused() {
        let names = ["kms.test".to_owned(), "localhost".to_owned(), "10.1.2.3".to_owned()];
        assert_eq!(server_parameters(Timestamp::UNIX_EPOCH, &names).unwrap().subject_alt_names.len(), 5);
        assert!(Authority::generate(Timestamp::UNIX_EPOCH, &["ключ".to_owned()]).is_err());
    }

    #[test]
    fn debug_keeps_the_key_to_itself() {
        let authority = Authority::generate(Timestamp::UNIX_EPOCH, &[]).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
