//! What annotations of a Service say of its ports: how HTTP/1 is spoken there.
//!
//! Kubernetes' ports have no fields for it. An annotation names the ports that it is about, by name or number,
//! separated by commas.

use std::time::Duration;

/// Keys that begin so are Tulle's: one that is not known is a mistake.
pub const PREFIX: &str = "tulle.dev/";
/// `web, 8080`: ports whose header fields keep letters, order and reason phrases.
pub const PRESERVE_HEADER_CASE: &str = "tulle.dev/preserve-header-case";
/// `web=1m, 8080=500ms`, or `1m` for all ports.
pub const HALF_CLOSE_TIMEOUT: &str = "tulle.dev/half-close-timeout";
/// All of them.
pub const ANNOTATIONS: [&str; 2] = [PRESERVE_HEADER_CASE, HALF_CLOSE_TIMEOUT];

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How HTTP/1 is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http1Settings {
    /// Names of fields keep their letters and their order, and answers their reason phrases, between clients and
    /// applications of HTTP/1.
    pub preserve_case: bool,
    /// How long a client that has closed its side may take nothing of its answer.
    pub half_close: Duration,
}

impl Http1Settings {
    /// Where nothing is said.
    pub const DEFAULT: Self = Self { preserve_case: false, half_close: Duration::from_secs(15) };
}

impl Default for Http1Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A port as annotations name it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub number: u16,
    /// Empty: it has none.
    pub name: &'a str,
    /// Requests go to the application in HTTP/1 there, or in the version that their client speaks.
    pub http1: bool,
    /// Bytes pass there, which are no requests.
    pub bytes: bool,
}

impl Named<'_> {
    fn is(&self, text: &str) -> bool {
        (!self.name.is_empty() && self.name == text) || text.parse() == Ok(self.number)
    }
}

/// Applies one item of an annotation to the settings of the ports.
type Setter = fn(&str, &[Named<'_>], &mut [Http1Settings]) -> Result<(), String>;

/// The settings of each of `ports`. `Err`: which annotation is wrong, and why.
pub fn settings<'a>(
    annotation: impl Fn(&str) -> Option<&'a str>,
    ports: &[Named<'_>],
) -> Result<Vec<Http1Settings>, (&'static str, String)> {
    let mut settings = vec![Http1Settings::DEFAULT; ports.len()];
    let mut apply = |key: &'static str, set: Setter| {
        let Some(value) = annotation(key) else { return Ok(()) };
        let mut items: Vec<&str> = value.split(',').map(str::trim).collect();
        // What is for all ports holds where nothing else does.
        items.sort_by_key(|item| item.contains('='));
        items
            .into_iter()
            .try_for_each(|item| set(item, ports, &mut settings))
            .map_err(|problem| (key, problem))
    };
    apply(PRESERVE_HEADER_CASE, preserve_case)?;
    apply(HALF_CLOSE_TIMEOUT, half_close)?;
    Ok(settings)
}

fn find(text: &str, ports: &[Named<'_>]) -> Result<usize, String> {
    ports.iter().position(|port| port.is(text)).ok_or_else(|| {
        let known: Vec<String> = ports
            .iter()
            .map(|port| if port.name.is_empty() { port.number.to_string() } else { port.name.to_owned() })
            .collect();
        format!("`{}` is no TCP port of the service (it has {})", text.escape_debug(), known.join(", "))
    })
}

fn preserve_case(item: &str, ports: &[Named<'_>], settings: &mut [Http1Settings]) -> Result<(), String> {
    let at = find(item, ports)?;
    if !ports[at].http1 {
        return Err(format!(
            "port `{item}` does not speak HTTP/1: names of fields have letters of both cases there alone"
        ));
    }
    settings[at].preserve_case = true;
    Ok(())
}

fn half_close(item: &str, ports: &[Named<'_>], settings: &mut [Http1Settings]) -> Result<(), String> {
    let (port, time) = match item.split_once('=') {
        Some((port, time)) => (Some(port.trim()), time.trim()),
        None => (None, item),
    };
    let Some(time) = duration(time) else {
        return Err(format!("`{}` is no duration such as `30s` or `1m30s`", time.escape_debug()));
    };
    if !(SHORTEST..=LONGEST).contains(&time) {
        return Err(format!("`{item}` is out of range: from 100ms to 24h"));
    }
    match port {
        None => settings.iter_mut().for_each(|settings| settings.half_close = time),
        Some(port) => {
            let at = find(port, ports)?;
            if ports[at].bytes {
                return Err(format!("port `{port}` passes bytes, whose half-close has no deadline"));
            }
            settings[at].half_close = time;
        }
    }
    Ok(())
}

/// The form of a [`duration`], as Gateway API's own schemas have it.
pub(crate) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A duration of Gateway API (GEP-2257): up to four numbers of up to five digits, each with `h`, `m`, `s` or `ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|_| digits <= 5)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return None,
        };
        rest = &rest[letters..];
        total += unit * number as u32;
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [Named<'static>; 4] = [
        Named { number: 80, name: "web", http1: true, bytes: false },
        Named { number: 81, name: "", http1: true, bytes: false },
        Named { number: 82, name: "rpc", http1: false, bytes: false },
        Named { number: 83, name: "db", http1: false, bytes: true },
    ];

    fn read(case: Option<&str>, time: Option<&str>) -> Result<Vec<(bool, u64)>, String> {
        let of = |key: &str| if key == PRESERVE_HEADER_CASE { case } else { time };
        match settings(of, &PORTS) {
            Ok(all) => Ok(all.iter().map(|s| (s.preserve_case, s.half_close.as_millis() as u64)).collect()),
            Err((_, problem)) => Err(problem),
        }
    }

    #[test]
    fn annotations_name_the_ports_that_they_are_about() {
        let default = (false, 15_000);
        assert_eq!(read(None, None), Ok(vec![default; 4]));
        assert_eq!(read(Some("web"), None), Ok(vec![(true, 15_000), default, default, default]));
        assert_eq!(read(Some("80 ,81"), None), Ok(vec![(true, 15_000), (true, 15_000), default, default]));
        assert_eq!(read(None, Some("1m30s")), Ok(vec![(false, 90_000); 4]));
        let two = vec![(false, 1500), (false, 3_600_000), default, default];
        assert_eq!(read(None, Some("web = 1s500ms, 81=1h")), Ok(two));
        let later = vec![(false, 2000), (false, 1000), (false, 1000), (false, 1000)];
        assert_eq!(read(None, Some("1s,80=2s")), Ok(later.clone()));
        assert_eq!(read(None, Some("80=2s,1s")), Ok(later));
    }

    #[test]
    fn what_an_annotation_cannot_mean_is_refused() {
        for case in ["", "true", "web,", "90", "rpc", "82", "db", "WEB", "080x", "web;81"] {
            assert!(read(Some(case), None).is_err(), "{case}");
        }
        for time in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "0s",
            "99ms",
            "25h",
            "web",
            "web=",
            "=1s",
            "nope=1s",
            "db=1s",
            "1s,",
            "100000s",
            "1s1s1s1s1s",
            "1S",
            "1 s",
        ] {
            assert!(read(None, Some(time)).is_err(), "{time}");
        }
    }
}
