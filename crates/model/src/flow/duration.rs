//! Durations of the DSL (dsl-reference.md, Duration): an object of days to milliseconds, or a text of ISO 8601.

use std::time::Duration;

use serde_json::Value;

use super::unsupported::Unsupported;
use crate::validate::field::shown;
use crate::validate::structure::mismatch;

/// Nobody waits longer: 100 years.
pub const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

/// The fields of a duration that is an object, and how many milliseconds one of each has.
pub(super) const UNITS: [(&str, u64); 5] = [
    ("days", 86_400_000),
    ("hours", 3_600_000),
    ("minutes", 60_000),
    ("seconds", 1_000),
    ("milliseconds", 1),
];

/// The duration that a value says: of a document, or what an expression has evaluated to.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn read(value: &Value) -> Result<Duration, String> {
    match value {
        Value::Object(fields) if fields.is_empty() => {
            Err("says nothing: expected `days`, `hours`, `minutes`, `seconds` or `milliseconds`".to_owned())
        }
        Value::Object(fields) => {
            let mut sum = 0_u64;
            for (name, number) in fields {
                let Some((_, factor)) = UNITS.iter().find(|(unit, _)| unit == name) else {
                    return Err(format!(
                        "has the field `{name}`: expected `days`, `hours`, `minutes`, `seconds` or `milliseconds`"
                    ));
                };
                let Some(number) = number.as_u64() else {
                    return Err(format!(
                        "has {} as `{name}`: expected a whole number from 0 on",
                        shown(number)
                    ));
                };
                sum = sum.saturating_add(number.saturating_mul(*factor));
            }
            bounded(Duration::from_millis(sum))
        }
        Value::String(text) => read_text(text),
        other => {
            // Seconds are what is meant, most likely.
            let seconds = other.as_u64().unwrap_or(30);
            let mismatch = mismatch("a duration", other);
            Err(format!("{mismatch}; e.g. `PT{seconds}S`, or `{{seconds: {seconds}}}`"))
        }
    }
}

fn bounded(duration: Duration) -> Result<Duration, String> {
    if duration > LONGEST { Err(too_long()) } else { Ok(duration) }
}

fn too_long() -> String {
    format!("is longer than {} days (100 years)", LONGEST.as_secs() / 86_400)
}

/// By the pattern of the DSL's schema: a number may have a fraction, wherever it stands.
fn read_text(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let shown = shown(&Value::from(text));
        format!(
            "{shown} is no duration of ISO 8601, e.g. `PT5S` or `P2DT12H`, nor an object such as `{{seconds: 5}}`"
        )
    };
    let rest = text.strip_prefix('P').ok_or_else(wrong)?;
    let (date, time) = match rest.split_once('T') {
        Some((date, time)) if time.starts_with(|c: char| c.is_ascii_digit()) => (date, time),
        Some(_) => return Err(wrong()),
        None if rest.is_empty() => return Err(wrong()),
        None => (rest, ""),
    };
    let mut nanoseconds = 0_u128;
    for (part, units) in [
        (date, &[('Y', 0), ('M', 0), ('W', 604_800), ('D', 86_400)][..]),
        (time, &[('H', 3_600), ('M', 60), ('S', 1)]),
    ] {
        let (mut part, mut units) = (part, units.iter());
        while !part.is_empty() {
            let end = part.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
            let (number, rest) = part.split_at(end);
            let mut letters = rest.chars();
            let letter = letters.next();
            // Each once, and in this order.
            let (_, seconds) = units.find(|(unit, _)| Some(*unit) == letter).ok_or_else(wrong)?;
            let number = Decimal::parse(number).ok_or_else(wrong)?;
            if *seconds == 0 {
                return Err(Unsupported::CalendarDuration.message());
            }
            nanoseconds = nanoseconds.saturating_add(number.nanoseconds(*seconds));
            part = letters.as_str();
        }
    }
    if nanoseconds > LONGEST.as_nanos() {
        return Err(too_long());
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| too_long())?;
    Ok(Duration::new(seconds, (nanoseconds % 1_000_000_000) as u32))
}

/// A number with a fraction, which is cut off after nine digits.
struct Decimal {
    whole: u64,
    billionths: u32,
}

impl Decimal {
    /// `12` or `12.5`.
    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_digits(whole) || !fraction.is_none_or(is_digits) {
            return None;
        }
        let fraction = fraction.unwrap_or_default();
        let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        let billionths = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
        // What does not fit is too long, whatever the unit.
        Some(Self { whole: whole.parse().unwrap_or(u64::MAX), billionths })
    }

    fn nanoseconds(&self, seconds: u64) -> u128 {
        let billionths = u128::from(self.whole) * 1_000_000_000 + u128::from(self.billionths);
        billionths * u128::from(seconds)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_add_up() {
        for (value, millis) in [
            (json!({ "seconds": 3 }), 3_000),
            (json!({ "days": 1, "hours": 2, "minutes": 3, "seconds": 4, "milliseconds": 5 }), 93_784_005),
            (json!({ "minutes": 0 }), 0),
            (json!({ "days": 36_525 }), 3_155_760_000_000),
        ] {
            assert_eq!(read(&value), Ok(Duration::from_millis(millis)), "{value}");
        }
    }

    #[test]
    fn texts_are_iso_8601() {
        for (text, millis) in [
            ("PT3S", 3_000),
            ("PT0S", 0),
            ("P1D", 86_400_000),
            ("P2W", 1_209_600_000),
            ("P1W1DT1H1M1.5S", 694_861_500),
            ("PT0.25H", 900_000),
            ("PT0.0005S", 0),
            ("P0.5D", 43_200_000),
        ] {
            assert_eq!(read(&json!(text)).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
        assert_eq!(read(&json!("PT0.000000001S")), Ok(Duration::from_nanos(1)));
        assert_eq!(read(&json!("P36525D")), Ok(LONGEST));
    }

    #[test]
    fn what_is_no_duration_says_why() {
        let nines = "9".repeat(400);
        for (value, expected) in [
            (json!({}), "says nothing"),
            (json!({ "weeks": 1 }), "has the field `weeks`"),
            (json!({ "seconds": -1 }), "from 0 on"),
            (json!({ "seconds": 1.5 }), "from 0 on"),
            (json!({ "seconds": "3" }), "from 0 on"),
            (json!({ "days": 36_526 }), "longer than 36525 days"),
            (json!({ "days": u64::MAX, "hours": u64::MAX }), "longer than 36525 days"),
            (json!("P36525DT0.000000001S"), "longer than 36525 days"),
            (json!(format!("PT{nines}S")), "longer than 36525 days"),
            (json!(format!("PT{nines}.{nines}H{nines}M")), "longer than 36525 days"),
            (json!("P1Y"), "not always as long"),
            (json!("P2M"), "not always as long"),
            (json!("P0.5Y"), "not always as long"),
            (json!(""), "no duration of ISO 8601"),
            (json!("P"), "no duration of ISO 8601"),
            (json!("PT"), "no duration of ISO 8601"),
            (json!("P1DT"), "no duration of ISO 8601"),
            (json!("P1S"), "no duration of ISO 8601"),
            (json!("PT1D"), "no duration of ISO 8601"),
            (json!("PT1S1H"), "no duration of ISO 8601"),
            (json!("PT1H1H"), "no duration of ISO 8601"),
            (json!("PT1.S"), "no duration of ISO 8601"),
            (json!("PT.5S"), "no duration of ISO 8601"),
            (json!("PT1,5S"), "no duration of ISO 8601"),
            (json!("PT-1S"), "no duration of ISO 8601"),
            (json!("-PT1S"), "no duration of ISO 8601"),
            (json!("PT1"), "no duration of ISO 8601"),
            (json!("PT1Ä"), "no duration of ISO 8601"),
            (json!("pt1s"), "no duration of ISO 8601"),
            (json!("30s"), "no duration of ISO 8601"),
            (json!(30), "expected a duration"),
            (json!([]), "expected a duration"),
            (json!(null), "expected a duration"),
        ] {
            let message = read(&value).expect_err(&value.to_string());
            assert!(message.contains(expected), "{value}: {message}");
        }
    }
}
