//! What containers of a compose file may take: memory and CPU are limits of processes here, too.

use serde_json::{Map, Value};

use super::compose::text;
use super::draft::{Draft, DraftService};
use crate::units::{parse_cpu, parse_memory_limit};

const NO_SUCH_LIMIT: &str = "not taken over: `limits` has memory and cpu alone";

/// Takes over what can be, and names the rest of `deploy.resources`.
pub fn take(fields: &Value, service: &mut DraftService, draft: &mut Draft) {
    let resources = &fields["deploy"]["resources"];
    let limits = &resources["limits"];
    let of = |deployed: &'static str, short: &'static str| match text(&limits[deployed]) {
        Some(text) => Some((format!("deploy.resources.limits.{deployed}"), text)),
        None => text(&fields[short]).map(|text| (short.to_owned(), text)),
    };
    // 0 stands for no limit.
    let [memory, cpu] = [of("memory", "mem_limit"), of("cpus", "cpus")]
        .map(|limit| limit.filter(|(_, text)| !text.trim_end_matches(['.', '0']).is_empty()));
    let mut taken = |limit: Option<(String, String)>, read: fn(&str) -> Option<String>, what: &str| {
        let (field, text) = limit?;
        let quantity = read(&text);
        if quantity.is_none() {
            draft.note(&format!("{}.{field}", service.name), &format!("`{text}` is {what}: left out"));
        }
        quantity
    };
    service.memory = taken(memory, memory_of, "no limit of memory here");
    service.cpu = taken(cpu, cpu_of, "no limit of CPU here");
    let others = |value: &Value, known: &[&str]| -> Vec<String> {
        let names = value.as_object().into_iter().flat_map(Map::keys);
        names.filter(|name| !known.contains(&name.as_str())).cloned().collect()
    };
    for (place, value, known) in
        [("resources", resources, &["limits"][..]), ("resources.limits", limits, &["memory", "cpus"])]
    {
        for name in others(value, known) {
            draft.note(&format!("{}.deploy.{place}.{name}", service.name), NO_SUCH_LIMIT);
        }
    }
}

/// Units of compose files are powers of 1024, in either case, with or without a `b`: `512m`, `1gb`.
fn memory_of(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[number.len()..] {
        "" | "b" => "",
        "k" | "kb" => "Ki",
        "m" | "mb" => "Mi",
        "g" | "gb" => "Gi",
        _ => return None,
    };
    let quantity = format!("{number}{unit}");
    parse_memory_limit(&quantity).is_ok().then_some(quantity)
}

fn cpu_of(text: &str) -> Option<String> {
    parse_cpu(text).is_ok().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_compose_become_those_of_kubernetes() {
        for (text, expected) in [
            ("512m", Some("512Mi")),
            ("512M", Some("512Mi")),
            ("1.5gb", Some("1.5Gi")),
            ("65536K", Some("65536Ki")),
            ("67108864", Some("67108864")),
            ("67108864b", Some("67108864")),
            ("1k", None),
            ("${MEMORY}", None),
            ("512Mi", None),
        ] {
            assert_eq!(memory_of(text).as_deref(), expected, "{text}");
        }
        assert_eq!(cpu_of("0.50").as_deref(), Some("0.50"));
        assert_eq!(cpu_of("0.001"), None);
    }
}
