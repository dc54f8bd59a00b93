//! Quantities on the command line and in `tulle.yaml`: times, shares, sizes.

use std::time::Duration;

/// A time such as `200ms`, `5s`, `1m 30s` or `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let expected =
        || format!("`{text}` is no time: expected a number with its unit, such as 200ms, 5s or 1m");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| expected())?;
    Duration::try_from(parsed).map_err(|_| format!("`{text}` is negative: a time must be 0 or more"))
}

/// A time in which something is to happen.
pub fn parse_time_to_do(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time.is_zero() => Err(format!("`{text}` is too short: nothing is done in no time")),
        time => Ok(time),
    }
}

/// A number of the proxy's threads.
pub fn parse_workers(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("`{text}` is no number of threads: expected 1 to {MOST}"))
}

/// A share such as `0.05` or `5%`.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    match number.trim().parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&(value / scale)) => Ok(value / scale),
        _ => Err(format!("`{text}` is no share: expected 0 to 1, or 0% to 100%")),
    }
}

/// A size in bytes such as `100`, `10k`, `1M` (powers of 1024), at most 64 MiB.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, factor) = match number.as_bytes().last() {
        Some(b'k') => (&number[..number.len() - 1], 1 << 10),
        Some(b'm') => (&number[..number.len() - 1], 1 << 20),
        _ => (number, 1),
    };
    let size = number.trim().parse::<usize>().ok().and_then(|n| n.checked_mul(factor));
    match size {
        Some(size) if size <= 64 << 20 => Ok(size),
        _ => Err(format!("`{text}` is no size: expected 100, 10k or 1M, at most 64M")),
    }
}

/// Less does not carry a handful of connections.
const LEAST_MEMORY: u64 = 16 << 20;

/// An amount of memory as Kubernetes writes it, such as `512Mi`, `2Gi` or `1G`; bytes where no unit is said.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[number.len()..] {
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "" => 1,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match bytes {
        Some(bytes) if bytes >= LEAST_MEMORY => Ok(bytes),
        Some(_) if factor > 0 => Err(format!("`{text}` is too little: 16Mi is the least")),
        _ => Err(format!("`{text}` is no size: expected a number with its unit, such as 512Mi or 2Gi")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_units() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("5").is_err() && parse_duration("-5s").is_err());
        assert_eq!(parse_rate("5%"), Ok(0.05));
        assert!(parse_rate("1.5").is_err());
        assert_eq!(parse_size("10KiB"), Ok(10240));
        assert!(parse_size("1g").is_err());
        assert_eq!(parse_memory("512Mi"), Ok(512 << 20));
        assert_eq!(parse_memory("2G"), Ok(2_000_000_000));
        assert_eq!(parse_memory("16777216"), Ok(16 << 20));
        for bad in ["", "Mi", "-1Gi", "1.5Gi", "512mi", "5Mi", "99999999Ti"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
