//! Scalars of YAML's core schema (YAML 1.2.2, section 10.3.2).

use serde_json::{Number, Value};

/// What a plain scalar without a tag stands for; the error says why JSON has no such value.
pub(super) fn plain(text: &str) -> Result<Value, String> {
    if let Some(value) = constant(text) {
        return Ok(value);
    }
    match integer(text) {
        Some(number) => return Ok(number),
        None if !is_float(text) => {}
        None => return float(text),
    }
    if is_special_float(text) {
        return Err(format!(
            "`{text}` is a number that JSON doesn't have; write it in quotes if it is a text"
        ));
    }
    Ok(Value::String(text.to_owned()))
}

/// What a scalar with a tag of the core schema stands for.
pub(super) fn tagged(text: &str, tag: &str) -> Result<Value, String> {
    let value = match tag {
        "str" => return Ok(Value::String(text.to_owned())),
        "null" => constant(text).filter(Value::is_null),
        "bool" => constant(text).filter(Value::is_boolean),
        "int" => integer(text),
        "float" => return if is_float(text) { float(text) } else { Err(format!("`{text}` is no number")) },
        _ => None,
    };
    value.ok_or_else(|| format!("`{text}` is no value of the tag `!!{tag}`"))
}

fn constant(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "true" | "True" | "TRUE" => Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => Some(Value::Bool(false)),
        _ => None,
    }
}

/// `None` for what is no integer, or one that only fits a float.
fn integer(text: &str) -> Option<Value> {
    if let Some(digits) = text.strip_prefix("0x").filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())) {
        return u64::from_str_radix(digits, 16).ok().map(Value::from);
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        return u64::from_str_radix(digits, 8).ok().map(Value::from);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok()
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    mantissa_fits && exponent_fits
}

fn float(text: &str) -> Result<Value, String> {
    let number = text.parse::<f64>().ok().and_then(Number::from_f64);
    number.map(Value::Number).ok_or_else(|| format!("the number `{text}` is too large"))
}

fn is_special_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_those_of_the_core_schema() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("no", json!("no")),
            ("on", json!("on")),
            ("y", json!("y")),
            ("0", json!(0)),
            ("-17", json!(-17)),
            ("+17", json!(17)),
            ("0o17", json!(15)),
            ("0o8", json!("0o8")),
            ("0x1F", json!(31)),
            ("0x", json!("0x")),
            ("18446744073709551615", json!(18446744073709551615u64)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1e3", json!(1000.0)),
            (".", json!(".")),
            ("-", json!("-")),
            ("e5", json!("e5")),
            ("1e", json!("1e")),
            ("1_000", json!("1_000")),
            ("1.2.3", json!("1.2.3")),
            ("12:30:45", json!("12:30:45")),
            ("2026-01-01", json!("2026-01-01")),
            ("10.0.0.1", json!("10.0.0.1")),
        ] {
            assert_eq!(plain(text), Ok(value), "{text}");
        }
        for bad in [".inf", "-.INF", ".NaN", "1e999"] {
            assert!(plain(bad).is_err(), "{bad}");
        }
        assert_eq!(tagged("80", "str"), Ok(json!("80")));
        assert_eq!(tagged("80", "int"), Ok(json!(80)));
        assert!(tagged("x", "int").is_err());
    }
}
