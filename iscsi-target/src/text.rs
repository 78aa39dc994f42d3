//! `key=value` text of login and text PDUs (RFC 7143 §6.1, §6.2).

use std::fmt::Display;

use bytes::{Bytes, BytesMut};

/// Longest text of one exchange, over all its PDUs, in bytes.
pub const TEXT_MAX_BYTES: usize = 64 * 1024;

/// Longest key, in bytes (RFC 7143 §6.1).
const KEY_MAX_BYTES: usize = 63;

/// Why a text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not UTF-8.
    #[error("text is not UTF-8")]
    Encoding,
    /// A pair without `=`, with an empty key or with too long a key.
    #[error("text holds something that is no key=value pair")]
    Pair,
    /// More than [`TEXT_MAX_BYTES`].
    #[error("text is too long")]
    TooLong,
}

/// Pairs in the order in which they were sent.
pub type Pairs = Vec<(String, String)>;

/// Reads the pairs of a complete text.
pub fn parse(text: &[u8]) -> Result<Pairs, TextError> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(TextError::TooLong);
    }
    let text = std::str::from_utf8(text).map_err(|_| TextError::Encoding)?;
    text.split('\0')
        .filter(|pair| !pair.is_empty())
        .map(pair)
        .collect()
}

/// Appends one pair to `text`.
pub fn append(text: &mut BytesMut, key: &str, value: impl Display) {
    text.extend_from_slice(format!("{key}={value}\0").as_bytes());
}

/// Collects a text that comes in several PDUs.
#[derive(Debug)]
pub struct Collector {
    text: BytesMut,
    limit_bytes: usize,
}

impl Default for Collector {
    fn default() -> Self {
        Self::new(TEXT_MAX_BYTES)
    }
}

impl Collector {
    /// A collector of at most `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            text: BytesMut::new(),
            limit_bytes,
        }
    }

    /// Adds the data of one PDU.
    pub fn add(&mut self, part: &[u8]) -> Result<(), TextError> {
        if self.text.len() + part.len() > self.limit_bytes {
            return Err(TextError::TooLong);
        }
        self.text.extend_from_slice(part);
        Ok(())
    }

    /// Ends the text and reads it; the collector is empty again.
    pub fn finish(&mut self) -> Result<Pairs, TextError> {
        parse(&std::mem::take(&mut self.text))
    }

    /// How much is held.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.text.len()
    }
}

/// Hands out a long text in parts that fit the receiver.
#[derive(Debug, Default)]
pub struct Parts {
    rest: Bytes,
}

impl Parts {
    /// The text to hand out.
    #[must_use]
    pub fn new(text: BytesMut) -> Self {
        Self {
            rest: text.freeze(),
        }
    }

    /// The next part of at most `len_bytes`.
    pub fn next(&mut self, len_bytes: usize) -> Bytes {
        self.rest.split_to(len_bytes.min(self.rest.len()))
    }

    /// How much is left.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything was handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Bytes in the form `0x..` or `0b..` (RFC 7143 §6.1, large binary values).
pub fn parse_binary(value: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = value.split_at_checked(2)?;
    match prefix {
        "0x" | "0X" => parse_hex(digits),
        "0b" | "0B" => parse_base64(digits),
        _ => None,
    }
}

/// Bytes as `0x..`.
#[must_use]
pub fn format_binary(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::from("0x"), |text, byte| format!("{text}{byte:02x}"))
}

fn pair(pair: &str) -> Result<(String, String), TextError> {
    let (key, value) = pair.split_once('=').ok_or(TextError::Pair)?;
    if key.is_empty() || key.len() > KEY_MAX_BYTES {
        return Err(TextError::Pair);
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u8>> = digits.bytes().map(nibble).collect();
    let mut nibbles = nibbles?;
    if nibbles.is_empty() {
        return None;
    }
    if nibbles.len() % 2 == 1 {
        nibbles.insert(0, 0);
    }
    Some(
        nibbles
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn parse_base64(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.trim_end_matches('=');
    if digits.is_empty() || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | u32::from(sextet(*digit)?);
        }
        let [_, a, b, c] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        bytes.extend_from_slice(&[a, b, c][..group.len() - 1]);
    }
    Some(bytes)
}

const fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(pairs: &[(&str, &str)]) -> Pairs {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn pairs_end_with_zero_bytes() {
        let text = b"A=1\0B=two=2\0C=\0";
        assert_eq!(
            parse(text),
            Ok(owned(&[("A", "1"), ("B", "two=2"), ("C", "")]))
        );
    }

    #[test]
    fn a_missing_last_zero_and_empty_pairs_are_forgiven() {
        assert_eq!(parse(b"A=1\0\0\0B=2"), Ok(owned(&[("A", "1"), ("B", "2")])));
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        assert_eq!(parse(b"A\0"), Err(TextError::Pair));
        assert_eq!(parse(b"=1\0"), Err(TextError::Pair));
        assert_eq!(parse(&[b'k'; 64]), Err(TextError::Pair));
        assert_eq!(parse(&[b'A', b'=', 0xff]), Err(TextError::Encoding));
        assert_eq!(parse(&vec![0; TEXT_MAX_BYTES + 1]), Err(TextError::TooLong));
    }

    #[test]
    fn a_text_is_collected_from_parts() {
        let mut collector = Collector::default();
        collector.add(b"Long").unwrap();
        collector.add(b"Key=value\0").unwrap();
        assert_eq!(collector.finish(), Ok(owned(&[("LongKey", "value")])));
        assert_eq!(collector.finish(), Ok(Vec::new()));
        let half = vec![b'x'; TEXT_MAX_BYTES / 2 + 1];
        collector.add(&half).unwrap();
        assert_eq!(collector.add(&half), Err(TextError::TooLong));
    }

    #[test]
    fn binary_values_in_both_forms() {
        assert_eq!(parse_binary("0x00fF"), Some(vec![0, 0xff]));
        assert_eq!(parse_binary("0xabc"), Some(vec![0x0a, 0xbc]));
        assert_eq!(parse_binary("0bTWFu"), Some(b"Man".to_vec()));
        assert_eq!(parse_binary("0bTWE="), Some(b"Ma".to_vec()));
        assert_eq!(parse_binary("0bTQ=="), Some(b"M".to_vec()));
        for bad in ["", "0", "0x", "0b", "0xg1", "0b?", "0bA", "12", "0b=", "0é"] {
            assert_eq!(parse_binary(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(pairs) = parse(&text) {
                let mut again = BytesMut::new();
                for (key, value) in &pairs {
                    append(&mut again, key, value);
                }
                prop_assert_eq!(parse(&again), Ok(pairs));
            }
        }

        #[test]
        fn binary_values_come_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(parse_binary(&format_binary(&bytes)), Some(bytes));
        }

        #[test]
        fn any_binary_value_parses_or_fails(value in ".*") {
            let _ = parse_binary(&value);
        }
    }
}
