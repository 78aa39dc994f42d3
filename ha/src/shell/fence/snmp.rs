//! Outlets of APC rack power distribution units, by SNMP v1 or v3 (PowerNet-MIB, rPDU).

use core::time::Duration;
use std::net::SocketAddr;

use async_snmp::transport::UdpHandle;
use async_snmp::{Auth, AuthProtocol, Client, Oid, PrivProtocol, Retry, UsmConfig, Value};

use super::{Secret, accepted, failed, power};
use crate::fence::{Power, Question, Reply};

/// `rPDUOutletControlOutletCommand`, then the number of the outlet.
const COMMAND: &[u32] = &[1, 3, 6, 1, 4, 1, 318, 1, 1, 12, 3, 3, 1, 1, 4];
/// `rPDUOutletStatusOutletName`, then the number of the outlet.
const NAME: &[u32] = &[1, 3, 6, 1, 4, 1, 318, 1, 1, 12, 3, 5, 1, 1, 2];
/// `rPDUOutletStatusOutletState`, then the number of the outlet.
const STATE: &[u32] = &[1, 3, 6, 1, 4, 1, 318, 1, 1, 12, 3, 5, 1, 1, 4];
/// `immediateOff`; 3 would be a restart.
const IMMEDIATE_OFF: i32 = 2;
/// `outletStatusOn`.
const IS_ON: i32 = 1;
/// `outletStatusOff`.
const IS_OFF: i32 = 2;
/// Outlets of one unit; a chain of four has 96.
const OUTLETS_MAX: usize = 128;
/// One datagram may be lost.
const RETRIES: u32 = 2;
const REQUEST_MS: u64 = 1_000;

/// One outlet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApcSnmp {
    /// Where the unit listens, UDP.
    pub address: SocketAddr,
    /// Name of the outlet, as the unit has it.
    pub outlet: String,
    /// What it wants to know first.
    pub access: Access,
}

/// How a unit knows who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// SNMP v1: a community that may write, in clear on the wire.
    V1 {
        /// The community.
        community: Secret,
    },
    /// SNMP v3, signed and encrypted.
    V3 {
        /// Its user.
        user: String,
        /// How it is signed.
        hash: AuthHash,
        /// The secret of the signature.
        secret: Secret,
        /// The secret of the encryption, CFB-AES-128 (RFC 3826).
        privacy: Secret,
    },
}

/// How SNMP v3 is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthHash {
    /// HMAC-MD5-96, for old units.
    Md5,
    /// HMAC-SHA-96.
    Sha1,
    /// HMAC-SHA-256 (RFC 7860).
    Sha256,
}

impl Access {
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::V1 { community } => vec![community.0.clone()],
            Self::V3 {
                secret, privacy, ..
            } => vec![secret.0.clone(), privacy.0.clone()],
        }
    }

    fn auth(&self) -> Result<Auth, String> {
        match self {
            Self::V1 { community } => Ok(Auth::v1(community.0.clone().into_bytes())),
            Self::V3 {
                user,
                hash,
                secret,
                privacy,
            } => {
                let hash = match hash {
                    AuthHash::Md5 => AuthProtocol::Md5,
                    AuthHash::Sha1 => AuthProtocol::Sha1,
                    AuthHash::Sha256 => AuthProtocol::Sha256,
                };
                UsmConfig::new(user.clone().into_bytes())
                    .auth_priv(hash, &secret.0, PrivProtocol::Aes128, &privacy.0)
                    .map(Auth::Usm)
                    .map_err(|error| error.to_string())
            }
        }
    }
}

impl ApcSnmp {
    pub(super) async fn ask(&self, what: Question) -> Reply {
        let (version, shown) = match &self.access {
            Access::V1 { .. } => ("v1", "a community".to_owned()),
            Access::V3 { user, .. } => ("v3", format!("user {user}")),
        };
        let to = format!("SNMP {version} as {shown} to {}", self.address);
        match self.asked(what, &to).await {
            Ok(reply) => reply,
            Err(why) => failed(format!("{to}: outlet {}", self.outlet), why),
        }
    }

    async fn asked(&self, what: Question, to: &str) -> Result<Reply, String> {
        let client = Client::builder(self.address, self.access.auth()?)
            .request_timeout(Duration::from_millis(REQUEST_MS))
            .retry(Retry::fixed(RETRIES, Duration::ZERO).map_err(|error| error.to_string())?)
            .connect()
            .await
            .map_err(|error| error.to_string())?;
        let number = self.number(&client).await?;
        let outlet = format!("outlet {number} ({})", self.outlet);
        match what {
            Question::Off => {
                let oid = Oid::from_slice(COMMAND).child(number);
                let set = client.set(&oid, Value::Integer(IMMEDIATE_OFF)).await;
                let taken = set.map_err(|error| error.to_string())?;
                let taken = taken.single().and_then(|it| it.value.as_i32());
                Ok(accepted(
                    format!("{to}: SET command of {outlet} to {IMMEDIATE_OFF} (immediate off)"),
                    format!("taken: {taken:?}"),
                ))
            }
            Question::Power => {
                let oid = Oid::from_slice(STATE).child(number);
                let got = client.get(&oid).await.map_err(|error| error.to_string())?;
                let asked = format!("{to}: GET state of {outlet}");
                Ok(match got.single().and_then(|it| it.value.as_i32()) {
                    Some(IS_ON) => power(Power::On, asked, "1 (on)"),
                    Some(IS_OFF) => power(Power::Off, asked, "2 (off)"),
                    other => failed(
                        asked,
                        format!("a state that is neither on nor off: {other:?}"),
                    ),
                })
            }
        }
    }

    /// The outlet that has the name; exactly one must.
    async fn number(&self, client: &Client<UdpHandle>) -> Result<u32, String> {
        let mut walk = client
            .walk_getnext(Oid::from_slice(NAME))
            .map_err(|error| error.to_string())?;
        let (mut found, mut names) = (Vec::new(), Vec::new());
        while let Some(next) = walk.next().await {
            let next = next.map_err(|error| error.to_string())?;
            let Some(name) = next.value.as_str() else {
                continue;
            };
            let number = next.oid.arcs().last();
            if let (true, Some(number)) = (name == self.outlet, number) {
                found.push(*number);
            }
            names.push(name.to_owned());
            if names.len() > OUTLETS_MAX {
                return Err(format!("it lists more than {OUTLETS_MAX} outlets"));
            }
        }
        match found[..] {
            [number] => Ok(number),
            [] => Err(format!(
                "no outlet is called {}; there are {}",
                self.outlet,
                names.join(", ")
            )),
            [..] => Err(format!(
                "{} outlets are called {}: the wrong box could be turned off; give each its name",
                found.len(),
                self.outlet
            )),
        }
    }
}
