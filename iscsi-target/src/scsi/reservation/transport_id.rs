//! TransportIDs of iSCSI initiator ports (SPC-4 §7.6.4.6).

use super::super::sense::Sense;
use super::InitiatorPort;
use crate::hosts;

/// FORMAT CODE 01b, an initiator port, and PROTOCOL IDENTIFIER 5h, iSCSI.
const INITIATOR_PORT: u8 = 0x45;
/// What stands between the name and the ISID.
const SEPARATOR: &str = ",i,0x";
const HEADER_BYTES: usize = 4;
/// A shorter one does not exist.
const BYTES_MIN: usize = 24;
/// The longest: a name of 223 bytes, the separator, twelve digits, a zero.
pub(super) const BYTES_MAX: usize = (HEADER_BYTES + 223 + SEPARATOR.len() + 12 + 1).div_ceil(4) * 4;

/// The TransportID of `port`.
pub(super) fn to_bytes(port: &InitiatorPort) -> Vec<u8> {
    let mut text = port.name.clone();
    text.push_str(SEPARATOR);
    text.extend(port.isid.iter().map(|byte| format!("{byte:02x}")));
    let mut text = text.into_bytes();
    // The name ends with a zero and fills whole words.
    text.resize((text.len() / 4 + 1) * 4, 0);
    text.resize(text.len().max(BYTES_MIN - HEADER_BYTES), 0);
    let len = u16::try_from(text.len()).expect("an iSCSI name has at most 223 bytes");
    let [high, low] = len.to_be_bytes();
    let mut id = vec![INITIATOR_PORT, 0, high, low];
    id.extend(text);
    id
}

/// Takes one TransportID off a list. The form without an ISID is refused: which of the initiator's
/// ports it means is not known here.
pub(super) fn take(list: &mut &[u8]) -> Result<InitiatorPort, Sense> {
    let (id, rest) = split(list).ok_or(Sense::LIST_FIELD)?;
    *list = rest;
    parse(id).ok_or(Sense::LIST_FIELD)
}

fn split(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, _, high, low, ..] = list else {
        return None;
    };
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    list.split_at_checked(len)
}

fn parse(id: &[u8]) -> Option<InitiatorPort> {
    if id[0] != INITIATOR_PORT || id.len() < BYTES_MIN || !id.len().is_multiple_of(4) {
        return None;
    }
    let text = &id[HEADER_BYTES..];
    let end = text.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&text[..end]).ok()?;
    let (name, digits) = text.rsplit_once(SEPARATOR)?;
    let mut isid = [0; 6];
    if digits.len() != 2 * isid.len() || !digits.bytes().all(|it| it.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in isid.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    let name = hosts::check_initiator(name).ok()?;
    Some(InitiatorPort { name, isid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str) -> InitiatorPort {
        InitiatorPort {
            name: name.to_owned(),
            isid: [0x40, 0, 1, 0x37, 0, 0xff],
        }
    }

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let longest = format!("iqn.2026-11.org.example:{}", "x".repeat(223 - 24));
        for name in [
            "iqn.2026-11.org.example:a",
            "eui.0123456789abcdef",
            &longest,
        ] {
            let id = to_bytes(&port(name));
            assert_eq!(id.len() % 4, 0);
            assert!((BYTES_MIN..=BYTES_MAX).contains(&id.len()), "{name}");
            let mut list = [id, vec![0xee]].concat();
            let mut rest = list.as_slice();
            assert_eq!(take(&mut rest), Ok(port(name)));
            assert_eq!(rest, [0xee]);
            list.clear();
        }
    }

    #[test]
    fn letters_of_names_are_lowered() {
        let id = to_bytes(&port("iqn.2026-11.org.example:A"));
        assert_eq!(
            take(&mut id.as_slice()),
            Ok(port("iqn.2026-11.org.example:a"))
        );
    }

    #[test]
    fn what_is_no_port_of_an_initiator_is_refused() {
        let good = to_bytes(&port("iqn.2026-11.org.example:a"));
        let changed = |at: usize, byte: u8| {
            let mut id = good.clone();
            id[at] = byte;
            id
        };
        let mut endless = good.clone();
        let last = endless.len();
        endless[4..last].fill(b'a');
        let bad = [
            Vec::new(),
            vec![0x45, 0, 0],
            good[..good.len() - 1].to_vec(),
            changed(0, 0x05),
            changed(0, 0x46),
            changed(3, 19),
            changed(4, b'!'),
            changed(good.iter().position(|byte| *byte == b',').unwrap(), b';'),
            endless,
            [&[0x45, 0, 0, 20][..], b"iqn.2026-11.org.x:a\0"].concat(),
        ];
        for id in bad {
            assert_eq!(
                take(&mut id.as_slice()),
                Err(Sense::LIST_FIELD),
                "{id:02x?}"
            );
        }
    }
}
