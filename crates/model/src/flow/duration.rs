//! Stand-in.
use serde_json::Value;
use std::time::Duration;
pub fn read(value: &Value) -> Result<Duration, String> {
    let millis = value["milliseconds"].as_u64().ok_or_else(|| format!("{value} is no duration"))?;
    Ok(Duration::from_millis(millis))
}
