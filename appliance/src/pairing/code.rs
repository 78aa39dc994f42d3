//! The one-time code: 60 bits in twelve characters that are hard to mistake for each other.

use std::fmt;
use std::str::FromStr;

use spake2::Password;

/// Crockford's digits: no I, L, O, U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARACTERS: usize = 12;
const BITS_EACH: usize = 5;

/// A one-time code. Its text is shown to the operator and to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Code([u8; CHARACTERS]);

impl Code {
    /// The code of 60 of these bits.
    pub(super) fn of_bits(bits: u128) -> Self {
        Self(std::array::from_fn(|at| {
            let digit = (bits >> (at * BITS_EACH)) % 32;
            DIGITS[usize::try_from(digit).expect("below 32")]
        }))
    }

    /// What SPAKE2 is started with.
    pub(super) fn password(&self) -> Password {
        Password::new(self.0)
    }

    /// The text to show.
    pub(super) fn shown(&self) -> String {
        let parts = self.0.chunks(4).map(String::from_utf8_lossy);
        parts.collect::<Vec<_>>().join("-")
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

impl FromStr for Code {
    type Err = String;

    /// Hyphens, spaces and the case do not matter, and look-alikes are taken for what is meant.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.chars().filter(|c| !matches!(c, '-' | ' '));
        let meant = digits.map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        });
        let known: Option<Vec<u8>> = meant
            .map(|c| u8::try_from(c).ok().filter(|c| DIGITS.contains(c)))
            .collect();
        let code = known.and_then(|known| known.try_into().ok());
        code.map(Self).ok_or_else(|| {
            format!(
                "this is no pairing code; it has {CHARACTERS} letters and digits, like \
                 7K3M-Q9TX-04WD, and `twinsan pair create` on the other box shows it"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_shown_and_as_people_type_it() {
        let code = Code::of_bits(0x0123_4567_89ab_cdef);
        let shown = code.shown();
        assert_eq!(shown.len(), 14);
        assert!(shown.parse() == Ok(code.clone()), "{shown}");
        assert!(shown.to_lowercase().replace('-', " ").parse() == Ok(code));
        assert!("OoIi-LlAB-CDEF".parse::<Code>() == "0011-11AB-CDEF".parse());
        for wrong in [
            "",
            "0011-11AB-CDE",
            "0011-11AB-CDEFG",
            "0011-11AB-CDEU",
            "ü011-11AB-CDEF",
        ] {
            assert!(wrong.parse::<Code>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_sixty_bits_count() {
        let codes = (0..60).map(|bit| Code::of_bits(1 << bit).shown());
        let all: std::collections::BTreeSet<String> = codes.collect();
        assert_eq!(all.len(), 60);
        assert_eq!(Code::of_bits(1 << 60), Code::of_bits(0));
    }

    #[test]
    fn a_code_is_in_no_debug_text() {
        assert_eq!(format!("{:?}", Code::of_bits(77)), "Code(..)");
    }
}
