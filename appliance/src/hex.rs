//! Bytes as hexadecimal digits, for keys and fingerprints in files and messages.

/// Two digits for each byte.
#[must_use]
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that `text` stands for.
#[must_use]
pub(crate) fn parse(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect()
}

/// The same, and exactly `N` of them.
#[must_use]
pub(crate) fn parse_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    parse(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_bytes_stand_for_each_other() {
        assert_eq!(parse(&shown(&[0, 0xff, 0x10])), Some(vec![0, 0xff, 0x10]));
        assert_eq!(parse_array::<2>("0Aff"), Some([0x0a, 0xff]));
        for wrong in ["0", "zz", "+1", "é0", "0a0b0c"] {
            assert_eq!(parse_array::<2>(wrong), None, "{wrong}");
        }
    }
}
