//! Sizes as people write them: 512M, 4G. Suffixes are powers of 1024.

/// Why a written size is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("'{0}' is not a size; write a whole number of bytes, or one with K, M, G or T (512M, 4G)")]
    NotASize(String),
    #[error("'{0}' is more than 2^64 - 1 bytes")]
    TooLarge(String),
}

/// Reads `4096`, `4K`, `512M`, `2G`, `1T`, also as `512MiB`, as `512 MiB` or in lower case.
///
/// # Errors
/// [`SizeError::NotASize`] for anything else, [`SizeError::TooLarge`] past 2^64 - 1 bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let not_a_size = || SizeError::NotASize(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = trimmed.split_at(digits);
    let shift = match suffix.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(not_a_size()),
    };
    if number.is_empty() {
        return Err(not_a_size());
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// The shortest exact way to write `bytes`: 64 KiB, 3 GiB, 4097 B.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let steps = if bytes == 0 { 0 } else { (bytes.trailing_zeros() / 10) as usize };
    format!("{} {}", bytes >> (10 * steps), UNITS[steps])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("4k"), Ok(4 << 10));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("8G"), Ok(8 << 30));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
    }

    #[test]
    fn what_is_not_a_size_says_how_to_write_one() {
        for text in ["", "G", "12X", "-1M", "1.5G", "0x10"] {
            let said = parse_size(text).unwrap_err().to_string();
            assert!(said.contains("whole number of bytes"), "{text}: {said}");
        }
    }

    #[test]
    fn sizes_past_64_bits_are_refused_not_wrapped() {
        assert_eq!(parse_size("16777216T"), Err(SizeError::TooLarge("16777216T".into())));
        assert_eq!(
            parse_size("99999999999999999999"),
            Err(SizeError::TooLarge("99999999999999999999".into()))
        );
    }

    #[test]
    fn human_sizes_are_exact() {
        assert_eq!(human_size(3 << 30), "3 GiB");
        assert_eq!(human_size((1 << 30) + 4096), "1048580 KiB");
        assert_eq!(human_size(4097), "4097 B");
        assert_eq!(human_size(0), "0 B");
    }
}
