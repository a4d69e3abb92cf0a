//! An endpoint that hands out credentials, usually a side-car on this machine (`credentials-go`, `uri.go`).

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};

use crate::upstream::credentials::sts::Grant;
use crate::upstream::credentials::{
    Config, Credentials, Environment, Fetch, Fetching, Lack, METADATA_TIMEOUT, Ways, given,
};
use crate::upstream::transport::Received;
use crate::wire::aliyun::object;

/// `GET` of one address. Whose credentials come back it does not say: the principal is the fixed word
/// `credentials-uri`, so the endpoint must not hand out now one identity and now another.
pub struct Uri {
    address: http::Uri,
    ways: Ways,
}

impl Uri {
    /// From the configuration or `ALIBABA_CLOUD_CREDENTIALS_URI`.
    ///
    /// # Errors
    /// [`Lack::Absent`] where neither is set; [`Lack::Failed`] for plain HTTP to another machine.
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let text = given(config.uri.as_ref(), env, "ALIBABA_CLOUD_CREDENTIALS_URI")
            .ok_or_else(|| Lack::absent("ALIBABA_CLOUD_CREDENTIALS_URI is not set"))?;
        // Not the transport's own words: such a URI may hold a token.
        let address = ways.machine.address(&text);
        let address = address.map_err(|_| {
            Lack::failed("the credentials URI must be https, or http on a loopback or link-local address")
        })?;
        Ok(Self { address, ways: ways.clone() })
    }

    async fn obtain(&self) -> Result<Credentials, Lack> {
        let sent = self.ways.machine.send(Method::GET, &self.address, HeaderMap::new(), Bytes::new(), METADATA_TIMEOUT);
        let received =
            sent.await.map_err(|fault| Lack::failed(format!("the credentials URI is {}", fault.kind().label())))?;
        granted(&received)
    }
}

/// Reads what the endpoint answered.
///
/// # Errors
/// [`Lack::Failed`] for everything but a 200 with whole credentials.
pub fn granted(received: &Received) -> Result<Credentials, Lack> {
    if received.status != StatusCode::OK {
        return Err(Lack::failed(format!("the credentials URI answered {}", received.status.as_u16())));
    }
    let grant: Option<Grant<'_>> = object::read(received.body.expose());
    let grant = grant.ok_or_else(|| Lack::failed("the credentials URI answered 200 without credentials"))?;
    grant.taken("credentials-uri".into())
}

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uri")
    }
}

impl Fetch for Uri {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.obtain())
    }
}
