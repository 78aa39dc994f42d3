//! The initiator's side of the login phase (RFC 7143 §6.3, §12).
//!
//! ```text
//!            CHAP                  CHAP_A             CHAP_N, CHAP_R, T
//!   Method ---------> Algorithm ---------> Proof ---------------------> Keys --T--> done
//!     | no CHAP: straight to Keys                                        ^
//!     +------------------------------------------------------------------+
//! ```

use bytes::{Bytes, BytesMut};

use super::{InitiatorError, Login};
use crate::auth::{Algorithm, CHALLENGE_MAX_BYTES, Challenge};
use crate::negotiate::{Answer, Parameters};
use crate::pdu::frame::Digest;
use crate::pdu::login::{Request, Response, TRANSIT};
use crate::pdu::{IMMEDIATE, Len24, opcode};
use crate::text::{self, Pairs};

/// Where a login is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Method,
    Algorithm,
    Proof(Algorithm),
    Keys,
}

/// A login in progress.
#[derive(Debug)]
pub(super) struct Dialogue {
    login: Login,
    challenge: Challenge,
    step: Step,
    parameters: Parameters,
    text: BytesMut,
}

/// What a response leads to.
#[derive(Debug)]
pub(super) enum Next {
    Send(Box<Request>, Bytes),
    Done(Parameters),
}

impl Dialogue {
    /// `challenge` must be unpredictable; it is used for mutual CHAP only.
    pub(super) fn new(login: Login, challenge: Challenge) -> Self {
        let step = if login.chap.is_some() {
            Step::Method
        } else {
            Step::Keys
        };
        let parameters = Parameters::default();
        Self {
            login,
            challenge,
            step,
            parameters,
            text: BytesMut::new(),
        }
    }

    /// The first request.
    pub(super) fn begin(&self) -> (Request, Bytes) {
        let mut text = BytesMut::new();
        text::append(&mut text, "InitiatorName", &self.login.initiator);
        match &self.login.target {
            Some(target) => {
                text::append(&mut text, "SessionType", "Normal");
                text::append(&mut text, "TargetName", target);
            }
            None => text::append(&mut text, "SessionType", "Discovery"),
        }
        if self.step == Step::Method {
            text::append(&mut text, "AuthMethod", "CHAP");
            return (self.request(0, text.len()), text.freeze());
        }
        self.offer(&mut text);
        (self.request(TRANSIT | 0x07, text.len()), text.freeze())
    }

    /// Takes one response.
    pub(super) fn response(
        &mut self,
        response: &Response,
        data: &[u8],
    ) -> Result<Next, InitiatorError> {
        if response.status.get() != 0 {
            return Err(InitiatorError::Refused(response.status.get()));
        }
        if self.text.len() + data.len() > text::TEXT_MAX_BYTES {
            return Err(InitiatorError::Protocol("endless login text"));
        }
        self.text.extend_from_slice(data);
        if response.flags & crate::pdu::login::CONTINUE != 0 {
            let flags = response.flags & 0x0c;
            return Ok(Next::Send(Box::new(self.request(flags, 0)), Bytes::new()));
        }
        let pairs = text::parse(&self.text.split())
            .map_err(|_| InitiatorError::Protocol("login text cannot be read"))?;
        let transit = response.flags & TRANSIT != 0;
        let mut text = BytesMut::new();
        let flags = match self.step {
            Step::Method => {
                expect(&pairs, "AuthMethod", "CHAP")?;
                text::append(&mut text, "CHAP_A", "8,7,6,5");
                self.step = Step::Algorithm;
                0
            }
            Step::Algorithm => {
                self.prove(&pairs, &mut text)?;
                TRANSIT | 0x01
            }
            Step::Proof(algorithm) => {
                self.verify(algorithm, &pairs)?;
                self.step = Step::Keys;
                if !transit {
                    return Ok(Next::Send(
                        Box::new(self.request(TRANSIT | 0x01, 0)),
                        Bytes::new(),
                    ));
                }
                self.offer(&mut text);
                TRANSIT | 0x07
            }
            Step::Keys => {
                self.settle(&pairs)?;
                if transit && response.flags & 0x03 == 0x03 {
                    self.parameters.finish();
                    return Ok(Next::Done(self.parameters));
                }
                if response.flags & 0x0c == 0 {
                    // Still in the security stage after the proof: now the operational one.
                    self.offer(&mut text);
                }
                TRANSIT | 0x07
            }
        };
        let request = self.request(flags, text.len());
        Ok(Next::Send(Box::new(request), text.freeze()))
    }

    fn request(&self, flags: u8, len_bytes: usize) -> Request {
        Request {
            opcode: opcode::LOGIN_REQUEST | IMMEDIATE,
            flags,
            version_max: 0,
            version_min: 0,
            ahs_len_words: 0,
            data_len: Len24::new(len_bytes),
            isid: self.login.isid,
            tsih: 0.into(),
            itt: 0.into(),
            cid: 1.into(),
            reserved_a: [0; 2],
            cmd_sn: 1.into(),
            exp_stat_sn: 0.into(),
            reserved_b: [0; 16],
        }
    }

    fn offer(&self, text: &mut BytesMut) {
        let offer = &self.login.offer;
        let digest = |digest| {
            if digest == Digest::Crc32c {
                "CRC32C"
            } else {
                "None"
            }
        };
        let yes = |yes| if yes { "Yes" } else { "No" };
        text::append(text, "HeaderDigest", digest(offer.header_digest));
        text::append(text, "DataDigest", digest(offer.data_digest));
        text::append(text, "MaxRecvDataSegmentLength", offer.receive_max_bytes);
        text::append(text, "DefaultTime2Wait", 0);
        text::append(text, "DefaultTime2Retain", 0);
        text::append(text, "ErrorRecoveryLevel", 0);
        if self.login.target.is_none() {
            return;
        }
        text::append(text, "MaxConnections", 1);
        text::append(text, "InitialR2T", yes(offer.initial_r2t));
        text::append(text, "ImmediateData", yes(offer.immediate_data));
        text::append(text, "MaxBurstLength", offer.burst_max_bytes);
        text::append(text, "FirstBurstLength", offer.first_burst_bytes);
        text::append(text, "MaxOutstandingR2T", 1);
        text::append(text, "DataPDUInOrder", "Yes");
        text::append(text, "DataSequenceInOrder", "Yes");
    }

    /// The target's answers are outcomes, so that noting them is negotiating with an equal.
    fn settle(&mut self, pairs: &Pairs) -> Result<(), InitiatorError> {
        for (key, value) in pairs {
            if matches!(value.as_str(), "Reject" | "NotUnderstood" | "Irrelevant") {
                continue;
            }
            if self.parameters.negotiate(key, value) == Answer::Invalid {
                return Err(InitiatorError::Protocol("a key has an impossible value"));
            }
        }
        Ok(())
    }

    fn prove(&mut self, pairs: &Pairs, text: &mut BytesMut) -> Result<(), InitiatorError> {
        let incomplete = InitiatorError::Protocol("incomplete CHAP challenge");
        let credentials = self.login.chap.as_ref().ok_or_else(|| incomplete.clone())?;
        let algorithm = find(pairs, "CHAP_A").and_then(Algorithm::from_number);
        let identifier = find(pairs, "CHAP_I").and_then(|text| text.parse::<u8>().ok());
        let challenge = find(pairs, "CHAP_C").and_then(text::parse_binary);
        let (Some(algorithm), Some(identifier), Some(challenge)) =
            (algorithm, identifier, challenge)
        else {
            return Err(incomplete);
        };
        if challenge.len() > CHALLENGE_MAX_BYTES || challenge == self.challenge.bytes {
            return Err(InitiatorError::TargetUnproved);
        }
        let proof = algorithm.response(identifier, &credentials.secret, &challenge);
        text::append(text, "CHAP_N", &credentials.name);
        text::append(text, "CHAP_R", text::format_binary(&proof));
        if self.login.mutual.is_some() {
            text::append(text, "CHAP_I", self.challenge.identifier);
            text::append(text, "CHAP_C", text::format_binary(&self.challenge.bytes));
        }
        self.step = Step::Proof(algorithm);
        Ok(())
    }

    fn verify(&self, algorithm: Algorithm, pairs: &Pairs) -> Result<(), InitiatorError> {
        let Some(mutual) = &self.login.mutual else {
            return Ok(());
        };
        let response = find(pairs, "CHAP_R")
            .and_then(text::parse_binary)
            .unwrap_or_default();
        let right = algorithm.verify(&self.challenge, &mutual.secret, &response);
        if right && find(pairs, "CHAP_N") == Some(mutual.name.as_str()) {
            Ok(())
        } else {
            Err(InitiatorError::TargetUnproved)
        }
    }
}

fn find<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

fn expect(pairs: &Pairs, key: &str, value: &str) -> Result<(), InitiatorError> {
    if find(pairs, key) == Some(value) {
        Ok(())
    } else {
        Err(InitiatorError::Protocol(
            "the target chose no authentication method",
        ))
    }
}
