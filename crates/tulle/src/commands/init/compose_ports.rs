//! Ports of a compose file. In containers every service has all of them for itself; here they share the host's, so that of two
//! that want one, the second is moved.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::draft::{Draft, DraftPort, DraftService};

/// How many of a range are taken over.
const MOST: usize = 20;

/// Ports that ordinary users cannot listen at begin above this when they are moved.
const MOVED: u16 = 8000;
/// No Service has this one.
const DNS: u16 = 53;

const PRIVILEGED: u16 = 1024;

/// What speaks first, or is well known, need not be found out.
const PROTOCOLS: &[(u16, &str)] = &[
    (1883, "mqtt"),
    (3306, "mysql"),
    (4222, "nats"),
    (5432, "postgres"),
    (5672, "amqp"),
    (6379, "redis"),
    (9092, "kafka"),
    (11211, "memcached"),
    (27017, "mongodb"),
];

/// A port as a compose file has it.
struct Wanted {
    /// Inside of the container, as it is written.
    text: String,
    number: Option<u16>,
    published: Option<u16>,
    protocol: Option<String>,
}

/// Takes over the ports of a service: `ports` and `expose`.
pub fn take(
    fields: &Value,
    service: &mut DraftService,
    taken: &mut BTreeSet<u16>,
    resolve: &dyn Fn(&str) -> Option<String>,
    draft: &mut Draft,
) {
    let mut wanted: Vec<Wanted> = Vec::new();
    for field in ["ports", "expose"] {
        for item in fields[field].as_array().into_iter().flatten() {
            match read(item, resolve) {
                Ok(ports) => {
                    for port in ports {
                        if !wanted.iter().any(|other| other.text == port.text) {
                            wanted.push(port);
                        }
                    }
                }
                Err(why) => draft.note(
                    &format!("{}.{field}", service.name),
                    &format!("{}: not taken over: {why}", shown(item)),
                ),
            }
        }
    }
    let several = wanted.len() > 1;
    for port in wanted {
        let place = format!("{}.ports", service.name);
        let Some(number) = port.number else {
            let why = format!("{}: `tulle validate` says what it lacks", port.text);
            draft.note(&place, &why);
            service.ports.push(DraftPort { name: None, port: port.text, listens_at: None, protocol: None });
            continue;
        };
        if number == DNS {
            draft.note(&place, &format!("{number}: not taken over: DNS is the mesh's"));
            continue;
        }
        let listens_at = free(number, port.published, taken);
        taken.insert(listens_at);
        let protocol = port.protocol.or_else(|| {
            let known = PROTOCOLS.iter().find(|(known, _)| *known == number);
            known.map(|(_, protocol)| (*protocol).to_owned())
        });
        if listens_at != number {
            let why = match number < PRIVILEGED {
                true => "needs root",
                false => "is another service's",
            };
            draft.note(
                &place,
                &format!(
                    "{number} {why} on this machine: the process has to listen at ${{PORT}}, {listens_at}"
                ),
            );
        } else if let Some(published) = port.published.filter(|published| *published != number) {
            match published < PRIVILEGED || !taken.insert(published) {
                true => {
                    draft.note(&place, &format!("it is at localhost:{number} here, not at {published}"));
                }
                false => service.publish.push((published, several.then_some(number))),
            }
        }
        service.ports.push(DraftPort {
            name: several.then(|| format!("port-{number}")),
            // A text with a variable is kept where nothing changes.
            port: if listens_at == number { port.text } else { number.to_string() },
            listens_at: (listens_at != number).then_some(listens_at),
            protocol,
        });
    }
}

/// Where a process can listen: at the port itself, or else the published one, or one beyond.
fn free(number: u16, published: Option<u16>, taken: &BTreeSet<u16>) -> u16 {
    let is_free = |port: &u16| *port >= PRIVILEGED && !taken.contains(port);
    let beyond = if number < PRIVILEGED { MOVED + number } else { number };
    [Some(number), published]
        .into_iter()
        .flatten()
        .find(is_free)
        .unwrap_or_else(|| (beyond..=u16::MAX).chain(PRIVILEGED..beyond).find(is_free).unwrap_or(number))
}

fn read(item: &Value, resolve: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Wanted>, String> {
    let Value::Object(long) = item else {
        let text = match item {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err("it is no port".to_owned()),
        };
        return short(&text, resolve);
    };
    if long.get("protocol").and_then(Value::as_str).is_some_and(|protocol| protocol != "tcp") {
        return Err("the mesh carries TCP alone".to_owned());
    }
    let text = |name: &str| match long.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let target = text("target").ok_or("it has no `target`")?;
    let mut ports = numbers(&target, text("published").as_deref(), resolve)?;
    for port in &mut ports {
        port.protocol = text("app_protocol").filter(|name| crate::up::is_protocol(name));
    }
    Ok(ports)
}

/// `[[ADDRESS:]PUBLISHED:]TARGET[/PROTOCOL]`
fn short(text: &str, resolve: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Wanted>, String> {
    let (text, protocol) = match outside(text, '/').as_slice() {
        [ports, protocol] => (ports.clone(), Some(protocol.clone())),
        _ => (text.to_owned(), None),
    };
    if protocol.is_some_and(|protocol| protocol != "tcp") {
        return Err("the mesh carries TCP alone".to_owned());
    }
    // Of an address in brackets, too, only what is behind it matters.
    let parts = outside(&text, ':');
    match parts.as_slice() {
        [target] => numbers(target, None, resolve),
        [.., published, target] => numbers(target, Some(published.as_str()), resolve),
        [] => Err("it is empty".to_owned()),
    }
}

/// A port, or a range of them, with that at which each is published.
fn numbers(
    target: &str,
    published: Option<&str>,
    resolve: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Wanted>, String> {
    let Some(resolved) = resolve(target) else {
        return Ok(vec![Wanted { text: target.to_owned(), number: None, published: None, protocol: None }]);
    };
    let targets = range(&resolved).ok_or_else(|| format!("`{resolved}` is no port"))?;
    let published = published.filter(|text| !text.is_empty()).and_then(resolve).and_then(|text| range(&text));
    if targets.len() > MOST {
        return Err(format!("more than {MOST} ports: say which the process has"));
    }
    let several = targets.len() > 1;
    let of = |(index, number): (usize, u16)| Wanted {
        text: if several { number.to_string() } else { target.to_owned() },
        number: Some(number),
        published: published.as_ref().and_then(|all| all.get(index).copied()),
        protocol: None,
    };
    Ok(targets.into_iter().enumerate().map(of).collect())
}

fn range(text: &str) -> Option<Vec<u16>> {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-') {
        None => Some(vec![port(text)?]),
        Some((first, last)) => {
            Some((port(first)?..=port(last)?).collect()).filter(|all: &Vec<u16>| !all.is_empty())
        }
    }
}

/// Split at a sign that is not within `${…}`.
fn outside(text: &str, sign: char) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_u32);
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match parts.last_mut() {
            Some(last) if character != sign || depth > 0 => last.push(character),
            _ => parts.push(String::new()),
        }
    }
    parts
}

fn shown(item: &Value) -> String {
    match item {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Addresses in the words of a probe that name a port inside of the container: they name the one that the process has here.
pub fn point_to_own_ports(words: &mut [String], ports: &[DraftPort]) {
    for port in ports.iter().filter(|port| port.listens_at.is_some()) {
        let name = match &port.name {
            Some(name) => format!("${{PORT_{}}}", name.to_ascii_uppercase().replace('-', "_")),
            None => "${PORT}".to_owned(),
        };
        for word in words.iter_mut() {
            for host in ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"] {
                let old = format!("{host}:{}", port.port);
                let ends = |at: usize| !word[at + old.len()..].starts_with(|c: char| c.is_ascii_digit());
                if let Some(at) = word.match_indices(&old).map(|(at, _)| at).find(|at| ends(*at)) {
                    word.replace_range(at..at + old.len(), &format!("{host}:{name}"));
                }
            }
        }
    }
}

/// What the ports of services are before one of them is taken: nothing.
pub type Taken = BTreeSet<u16>;

/// Looks variables up for a text that has to be a number now.
pub fn resolver(variables: &BTreeMap<String, String>) -> impl Fn(&str) -> Option<String> {
    move |text| {
        let mut lookup = |name: &str, _: bool| {
            let value = std::env::var(name).ok().or_else(|| variables.get(name).cloned());
            value.map(crate::up::Meaning::Text)
        };
        let (resolved, problems) = crate::up::expand(text, crate::up::Use::Final, &mut lookup);
        problems.is_empty().then_some(resolved)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken_over(items: &Value, taken: &[u16]) -> (Vec<String>, Vec<String>) {
        let variables = BTreeMap::from([("TULLE_TEST_WEB".to_owned(), "3000".to_owned())]);
        let mut draft = Draft::default();
        let mut service = DraftService { name: "web".to_owned(), ..DraftService::default() };
        let mut taken = taken.iter().copied().collect();
        take(&json!({ "ports": items }), &mut service, &mut taken, &resolver(&variables), &mut draft);
        let ports = service.ports.iter().map(|port| {
            let listens = port.listens_at.map(|at| format!(">{at}")).unwrap_or_default();
            format!("{}{listens} {}", port.port, port.protocol.clone().unwrap_or_default()).trim().to_owned()
        });
        (ports.collect(), draft.notes)
    }

    #[test]
    fn ports_are_those_of_the_container_where_they_are_free() {
        for (items, taken, expected) in [
            (json!(["3000"]), &[][..], &["3000"][..]),
            (json!([3000]), &[], &["3000"]),
            (json!(["8080:3000"]), &[], &["3000"]),
            (json!(["8080:3000"]), &[3000], &["3000>8080"]),
            (json!(["8080:3000"]), &[3000, 8080], &["3000>3001"]),
            (json!(["127.0.0.1:8080:80/tcp"]), &[], &["80>8080"]),
            (json!(["80"]), &[], &["80>8080"]),
            (json!(["443:443"]), &[], &["443>8443"]),
            (json!(["3000-3002:4000-4002"]), &[], &["4000", "4001", "4002"]),
            (json!(["${TULLE_TEST_P:-8080}:${TULLE_TEST_WEB}"]), &[], &["${TULLE_TEST_WEB}"]),
            (json!(["${TULLE_TEST_P:-8080}:${TULLE_TEST_WEB}"]), &[3000], &["3000>8080"]),
            (json!(["5432:5432"]), &[], &["5432 postgres"]),
            (json!([{ "target": 3000, "published": "8080", "app_protocol": "http" }]), &[], &["3000 http"]),
            (json!([{ "target": 3000, "app_protocol": "nonsense" }]), &[], &["3000"]),
        ] {
            assert_eq!(taken_over(&items, taken).0, expected, "{items}");
        }
        for (items, why) in [
            (json!(["53:53/udp"]), "TCP alone"),
            (json!([{ "target": 53, "protocol": "udp" }]), "TCP alone"),
            (json!(["3000-4000"]), "more than 20"),
            (json!(["web"]), "`web` is no port"),
            (json!([true]), "it is no port"),
            (json!(["8080:80"]), "80 needs root on this machine: the process has to listen at ${PORT}, 8080"),
        ] {
            let (ports, notes) = taken_over(&items, &[]);
            assert!(
                notes[0].contains(why) && notes[0].starts_with("web.ports: "),
                "{items}: {notes:?} {ports:?}"
            );
        }
        let (ports, notes) = taken_over(&json!(["${TULLE_TEST_NOWHERE}:${TULLE_TEST_NOWHERE}"]), &[]);
        assert!(ports == ["${TULLE_TEST_NOWHERE}"] && notes.len() == 1);
    }
}
