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

/// Nothing starts with less.
const LEAST_MEMORY_LIMIT: u128 = 6 << 20;
const MOST_MEMORY_LIMIT: u128 = 1 << 60;

/// How much memory a process may take: a quantity as Kubernetes writes it (`512Mi`, `1.5G`, `129e6`, bytes).
pub fn parse_memory_limit(text: &str) -> Result<u64, String> {
    let unknown =
        || format!("`{text}` is no amount of memory: expected a number with its unit, such as 512Mi or 2Gi");
    let (number, unit) = number_with_unit(text).ok_or_else(unknown)?;
    let (mut bytes, divisor) = match unit {
        "" => (number.digits, number.divisor),
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" => {
            (number.digits << (10 * (1 + position("KMGTP", unit))), number.divisor)
        }
        "k" | "M" | "G" | "T" | "P" => {
            (number.digits * 1000_u128.pow(1 + position("kMGTP", unit)), number.divisor)
        }
        _ => {
            let first = unit.chars().next().map(|c| c.to_ascii_uppercase()).filter(|c| "KMGT".contains(*c));
            let is_size =
                matches!(unit.get(1..).map(str::to_ascii_lowercase).as_deref(), Some("" | "b" | "i" | "ib"));
            return match first.filter(|_| is_size) {
                // `m` is a thousandth there, and a mebibyte in compose files.
                Some(first) => {
                    let number = &text[..text.len() - unit.len()];
                    Err(format!("`{text}` has no unit of Kubernetes: did you mean `{number}{first}i`?"))
                }
                None => Err(unknown()),
            };
        }
    };
    bytes = bytes.div_ceil(divisor);
    match bytes {
        ..LEAST_MEMORY_LIMIT => Err(format!("`{text}` is too little: 6Mi is the least")),
        LEAST_MEMORY_LIMIT..MOST_MEMORY_LIMIT => Ok(bytes as u64),
        _ => Err(format!("`{text}` is more than there can be")),
    }
}

/// So much of a core is a millisecond in each tenth of a second, the least that the kernel gives.
const LEAST_CPU: u128 = 10;
const MOST_CPU: u128 = 1_000_000;

/// How much CPU a process may take, in thousandths of a core: a quantity as Kubernetes writes it (`500m`, `0.5`, `2`).
pub fn parse_cpu(text: &str) -> Result<u32, String> {
    let unknown = || {
        format!(
            "`{text}` is no amount of CPU: expected cores, such as 0.5 or 2, or thousandths, such as 500m"
        )
    };
    let (number, unit) = number_with_unit(text).ok_or_else(unknown)?;
    let thousandths = match unit {
        "" => number.digits * 1000,
        "m" => number.digits,
        _ => return Err(unknown()),
    };
    if thousandths % number.divisor != 0 {
        return Err(format!("`{text}` is finer than a thousandth of a core (1m)"));
    }
    match thousandths / number.divisor {
        ..LEAST_CPU => Err(format!("`{text}` is too little: 10m is the least")),
        cpu @ LEAST_CPU..=MOST_CPU => Ok(cpu as u32),
        _ => Err(format!("`{text}` is more than there can be")),
    }
}

fn position(units: &str, unit: &str) -> u32 {
    unit.chars().next().and_then(|c| units.find(c)).unwrap_or_default() as u32
}

/// A number without its point: `digits / divisor`.
struct Decimal {
    digits: u128,
    divisor: u128,
}

/// `1.5Gi` is 1.5 and `Gi`; `129e6` is a number by itself.
fn number_with_unit(text: &str) -> Option<(Decimal, &str)> {
    /// More are no amount of anything, and all that is done with so many fits.
    const MOST_DIGITS: usize = 18;
    const MOST_EXPONENT: u8 = 15;
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, mut unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() > MOST_DIGITS || whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits =
        if fraction.contains('.') { None } else { format!("0{whole}{fraction}").parse::<u128>().ok() }?;
    let mut decimal = Decimal { digits, divisor: 10_u128.pow(fraction.len() as u32) };
    if let Some(exponent) = unit.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
        let exponent = exponent.parse::<u8>().ok().filter(|exponent| *exponent <= MOST_EXPONENT)?;
        decimal.digits *= 10_u128.pow(exponent.into());
        unit = "";
    }
    Some((decimal, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_quantities_of_kubernetes() {
        for (text, bytes) in [
            ("512Mi", 512 << 20),
            ("1.5Gi", 1536 << 20),
            (".5Gi", 512 << 20),
            ("1G", 1_000_000_000),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("12.5E+7", 125_000_000),
            ("8000.0001k", 8_000_001),
            ("1Pi", 1 << 50),
        ] {
            assert_eq!(parse_memory_limit(text), Ok(bytes), "{text}");
        }
        for (text, meant) in
            [("512m", "512Mi"), ("1g", "1Gi"), ("1gb", "1Gi"), ("1.5GiB", "1.5Gi"), ("9000K", "9000Ki")]
        {
            assert!(
                parse_memory_limit(text).unwrap_err().contains(&format!("did you mean `{meant}`")),
                "{text}"
            );
        }
        assert!(parse_memory_limit("5Mi").unwrap_err().contains("6Mi is the least"));
        assert!(parse_memory_limit("1000000Pi").unwrap_err().contains("more than there can be"));
        let nonsense = [
            "",
            "Mi",
            ".",
            "-1Gi",
            "1..5Gi",
            "1.5.5Gi",
            "1 Gi",
            "1e",
            "1e-3",
            "1e99",
            "1000000000000000000000",
            "1é",
            "1Mé",
            "1X",
        ];
        for text in nonsense {
            assert!(parse_memory_limit(text).unwrap_err().contains("is no amount"), "{text}");
            assert!(parse_cpu(text).unwrap_err().contains("is no amount"), "{text}");
        }
        for (text, thousandths) in
            [("500m", 500), ("0.5", 500), ("2", 2000), ("1.25", 1250), ("10m", 10), ("1e1", 10_000)]
        {
            assert_eq!(parse_cpu(text), Ok(thousandths), "{text}");
        }
        for (text, why) in [
            ("9m", "too little"),
            ("0", "too little"),
            ("0.0105", "finer"),
            ("1.5m", "finer"),
            ("999999999999999999e15", "more than"),
        ] {
            assert!(parse_cpu(text).unwrap_err().contains(why), "{text}");
        }
    }

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
