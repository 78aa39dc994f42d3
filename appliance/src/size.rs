//! Sizes as people write and read them: binary units.

/// A size in the largest binary unit that keeps it readable.
#[must_use]
pub fn shown(count_bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = count_bytes;
    let mut rest = 0;
    while value >= 1024 && unit + 1 < units.len() {
        rest = (value % 1024) * 10 / 1024;
        value /= 1024;
        unit += 1;
    }
    if rest == 0 {
        format!("{value} {}", units[unit])
    } else {
        format!("{value}.{rest} {}", units[unit])
    }
}

/// Bytes of `20GiB`, `512 MiB`, `1T`: binary units, also without the `iB`.
///
/// # Errors
/// A sentence that shows how sizes are written.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write it like 512MiB, 20GiB or 1TiB");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim().trim_end_matches("iB") {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1536), "1.5 KiB");
        assert_eq!(shown(256 << 20), "256 MiB");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("20 GiB"), Ok(20 << 30));
        assert_eq!(parse("1T"), Ok(1 << 40));
        assert_eq!(parse("4096"), Ok(4096));
        for wrong in ["", "GiB", "1.5G", "10X", "99999999999T"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
