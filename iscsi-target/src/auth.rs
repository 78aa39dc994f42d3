//! CHAP, one-way and mutual (RFC 7143 §12.1, RFC 1994).

use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq;

/// Length of the challenges we send, in bytes.
pub const CHALLENGE_LEN_BYTES: usize = 32;
/// Longest challenge we answer, in bytes (RFC 7143 §12.1.4).
pub const CHALLENGE_MAX_BYTES: usize = 1024;

/// CHAP_A: the hash, strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Algorithm {
    /// MD5, the only one every initiator knows.
    Md5 = 5,
    /// SHA-1.
    Sha1 = 6,
    /// SHA-256.
    Sha256 = 7,
    /// SHA3-256.
    Sha3 = 8,
}

impl Algorithm {
    /// All of them, weakest first.
    pub const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3];

    /// The algorithm of one CHAP_A number.
    #[must_use]
    pub fn from_number(number: &str) -> Option<Self> {
        let number: u8 = number.trim().parse().ok()?;
        Self::ALL
            .into_iter()
            .find(|algorithm| *algorithm as u8 == number)
    }

    /// The strongest of a list such as `7,5`.
    #[must_use]
    pub fn strongest(offer: &str) -> Option<Self> {
        offer.split(',').filter_map(Self::from_number).max()
    }

    /// CHAP_R: hash of identifier, secret and challenge.
    #[must_use]
    pub fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha1 => hash::<Sha1>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
            Self::Sha3 => hash::<Sha3_256>(parts),
        }
    }

    /// Whether `response` is right; takes the same time whatever is wrong with it.
    #[must_use]
    pub fn verify(self, challenge: &Challenge, secret: &[u8], response: &[u8]) -> bool {
        let expected = self.response(challenge.identifier, secret, &challenge.bytes);
        expected.ct_eq(response).into()
    }
}

/// CHAP_I and CHAP_C that were sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// CHAP_I.
    pub identifier: u8,
    /// CHAP_C.
    pub bytes: Vec<u8>,
}

fn hash<D: sha3::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    parts
        .into_iter()
        .fold(D::new(), |hash, part| hash.chain_update(part))
        .finalize()
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::format_binary;

    /// Computed with openssl over `01 "secret-of-twelve" 00 01 .. 0f`.
    const VECTORS: [(Algorithm, &str); 4] = [
        (Algorithm::Md5, "985dcbef540f5afa9e3536c9c4aed0b1"),
        (Algorithm::Sha1, "15ebe6e0a22db4054ec3e71aacb3c25316387e21"),
        (
            Algorithm::Sha256,
            "f1deb69720d19ee0fcdf13b835c83d96538ba17bf1bceb51d5cad6a734b8c131",
        ),
        (
            Algorithm::Sha3,
            "c9a5bee0631772e364f5ca20985fbf72ae295bc05d7686735603b5b087ed7f9f",
        ),
    ];

    #[test]
    fn responses_agree_with_openssl() {
        let challenge: Vec<u8> = (0..16).collect();
        for (algorithm, expected) in VECTORS {
            let response = algorithm.response(1, b"secret-of-twelve", &challenge);
            assert_eq!(
                format_binary(&response),
                format!("0x{expected}"),
                "{algorithm:?}"
            );
        }
    }

    #[test]
    fn the_strongest_known_algorithm_wins() {
        assert_eq!(Algorithm::strongest("5,6,7,8"), Some(Algorithm::Sha3));
        assert_eq!(Algorithm::strongest("7,5"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::strongest("5, 99 ,x"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::strongest("1,2,300"), None);
        assert_eq!(Algorithm::strongest(""), None);
    }

    #[test]
    fn only_the_right_response_is_accepted() {
        let challenge = Challenge {
            identifier: 3,
            bytes: vec![7; 32],
        };
        for algorithm in Algorithm::ALL {
            let right = algorithm.response(3, b"the right secret", &challenge.bytes);
            assert!(algorithm.verify(&challenge, b"the right secret", &right));
            assert!(!algorithm.verify(&challenge, b"the wrong secret", &right));
            assert!(!algorithm.verify(&challenge, b"the right secret", &right[1..]));
            assert!(!algorithm.verify(&challenge, b"the right secret", &[]));
            let other = algorithm.response(4, b"the right secret", &challenge.bytes);
            assert!(!algorithm.verify(&challenge, b"the right secret", &other));
        }
    }
}
