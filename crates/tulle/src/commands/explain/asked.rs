//! A request as somebody writes it on a command line.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tulle_model::explain::{Described, DescribedRequest, Sends};

use crate::exit::{Failure, Result};

const EXAMPLE: &str = "for example: `tulle explain --from client POST http://cart.shop:8080/items?x=1`";

/// See [`Described`].
#[derive(Debug)]
pub struct AskedFor {
    method: Method,
    uri: Uri,
    carries: Carries,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    Http,
    Tls,
    Bytes,
}

impl AskedFor {
    /// `method`: where it is said by itself. `words`: the URL, perhaps after the method, as curl and HTTPie have them.
    pub fn read(method: Option<&str>, words: &[String]) -> Result<Self> {
        let (method, url) = match (method, words) {
            (None, [method, url]) => (Some(method.as_str()), url),
            (method, [url]) => (method, url),
            _ => return Err(Failure::input("the method is said twice").help(EXAMPLE)),
        };
        if method.is_none() && is_known(url) {
            return Err(Failure::input(format!("`{url}` is a method: the URL is missing")).help(EXAMPLE));
        }
        let (carries, uri) = read_url(url)?;
        if method.is_some() && carries != Carries::Http {
            let message = format!("`{url}` is no request of HTTP, and has no method");
            return Err(Failure::input(message).help("what is not HTTP is described by its URL alone"));
        }
        let method = read_method(method.unwrap_or("GET"))?;
        let port = match (uri.port_u16(), carries) {
            (Some(port), _) => port,
            (None, Carries::Http) => 80,
            (None, Carries::Tls) if uri.scheme_str() == Some("https") => 443,
            (None, _) => {
                let message = format!("`{url}` has no port");
                return Err(Failure::input(message).help("for example: `tcp://db.shop:5432`"));
            }
        };
        Ok(Self { method, uri, carries, port })
    }

    pub fn method(&self) -> Option<&str> {
        (self.carries == Carries::Http).then_some(self.method.as_str())
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// Its host, maybe with a port.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    pub fn url(&self) -> String {
        self.uri.to_string()
    }

    pub fn is_http(&self) -> bool {
        self.carries == Carries::Http
    }

    pub fn is_tls(&self) -> bool {
        self.carries == Carries::Tls
    }

    fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// `server`: the one that its client names in TLS, where that is not the URL's.
    pub fn described<'a>(&'a self, headers: &'a HeaderMap, server: Option<&'a str>) -> Described<'a> {
        let host = self.host();
        // What is no name is not named (RFC 6066, section 3).
        let own = Some(host).filter(|host| host.parse::<IpAddr>().is_err());
        let sends = match self.carries {
            Carries::Http => Sends::Request(DescribedRequest {
                method: self.method.as_str(),
                path: self.uri.path(),
                query: self.uri.query(),
                headers,
            }),
            Carries::Tls => Sends::Bytes { is_tls: true, server: server.or(own) },
            Carries::Bytes => Sends::Bytes { is_tls: false, server: None },
        };
        Described { host, port: self.port, sends }
    }
}

fn is_known(word: &str) -> bool {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"].contains(&word)
}

fn read_method(method: &str) -> Result<Method> {
    let upper = method.to_ascii_uppercase();
    if upper != method && is_known(&upper) {
        let message = format!("the method `{method}` is another one than {upper}, and hardly meant");
        return Err(Failure::input(message).help(format!("write `{upper}`")));
    }
    if method == "CONNECT" {
        return Err(Failure::input("CONNECT asks for a tunnel, which is a connection of its own")
            .help("describe what goes through it: `tcp://db.shop:5432`, `https://web.shop`, or a request"));
    }
    method.parse().map_err(|_| Failure::input(format!("`{method}` is no method of HTTP")).help(EXAMPLE))
}

fn read_url(url: &str) -> Result<(Carries, Uri)> {
    let wrong = |why: &str| Failure::input(format!("`{url}` is no URL of a request: {why}")).help(EXAMPLE);
    // Another URL may stand in the query.
    let scheme =
        url.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains(['/', '?', '#']));
    let carries = match scheme.unwrap_or("http").to_ascii_lowercase().as_str() {
        "http" => Carries::Http,
        "https" | "tls" => Carries::Tls,
        "tcp" => Carries::Bytes,
        _ => {
            return Err(wrong("its scheme is one of http, https, tls and tcp"));
        }
    };
    // What clients send as it is, and no URI has.
    let encoded = [("\"", "%22"), ("<", "%3C"), (">", "%3E"), ("`", "%60")];
    let text = encoded.iter().fold(url.to_owned(), |text, (from, to)| text.replace(from, to));
    let text = if scheme.is_some() { text } else { format!("http://{text}") };
    let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    let (Some(authority), Some(host)) = (uri.authority(), uri.host().filter(|host| !host.is_empty())) else {
        return Err(wrong("it names no host"));
    };
    if authority.as_str().contains('@') {
        return Err(wrong("user and password are no part of it")
            .help("clients send them as a header: -H 'authorization: Basic …'"));
    }
    let port = authority.as_str().strip_prefix(host).unwrap_or_default();
    if !port.is_empty() && port != ":" && uri.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong("its port is none"));
    }
    if host
        .parse::<Ipv4Addr>()
        .is_ok_and(|address| address.octets()[0] == 127 && address.octets()[1] & 0xc0 == 64)
    {
        return Err(Failure::input(format!("{host} stands for a service on one node alone"))
            .help("name the service instead: `tulle get services -A` lists them"));
    }
    Ok((carries, uri))
}

pub fn read_header(text: &str) -> std::result::Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("it is not of the form `NAME: VALUE`")?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| format!("`{name}` is no name of a header"))?;
    let value =
        HeaderValue::try_from(value.trim()).map_err(|_| format!("`{value}` is no value of a header"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<AskedFor> {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let method = words.iter().position(|word| word == "-X").map(|at| words.drain(at..at + 2).nth(1));
        AskedFor::read(method.flatten().as_deref(), &words)
    }

    #[test]
    fn requests_are_written_as_for_curl() {
        for (line, method, url, port) in [
            ("http://web/api?x=1", Some("GET"), "http://web/api?x=1", 80),
            ("web.shop:8080", Some("GET"), "http://web.shop:8080/", 8080),
            ("web/go?to=http://x/", Some("GET"), "http://web/go?to=http://x/", 80),
            ("POST web/cart#top", Some("POST"), "http://web/cart", 80),
            ("-X DELETE http://web/a<b", Some("DELETE"), "http://web/a%3Cb", 80),
            ("HTTP://[fd00::1]:81/", Some("GET"), "http://[fd00::1]:81/", 81),
            ("https://web.shop", None, "https://web.shop/", 443),
            ("tls://db:5432", None, "tls://db:5432/", 5432),
            ("tcp://db:5432", None, "tcp://db:5432/", 5432),
        ] {
            let asked = read(line).unwrap();
            assert_eq!((asked.method(), &*asked.url(), asked.port), (method, url, port), "{line}");
        }
        let headers = HeaderMap::new();
        let named = |line: &str, server| match read(line).unwrap().described(&headers, server).sends {
            Sends::Bytes { is_tls, server } => (is_tls, server.map(str::to_owned)),
            Sends::Request(_) => panic!(),
        };
        assert_eq!(named("https://web.shop", None), (true, Some("web.shop".to_owned())));
        assert_eq!(named("https://web.shop", Some("a.example")), (true, Some("a.example".to_owned())));
        assert_eq!(named("tls://192.0.2.1:443", None), (true, None));
        assert_eq!(named("tcp://db:1", Some("a.example")), (false, None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_do() {
        for (line, says) in [
            ("GET", "the URL is missing"),
            ("get http://web/", "write `GET`"),
            ("CONNECT http://web/", "describe what goes through it"),
            ("G(ET http://web/", "no method of HTTP"),
            ("-X PUT POST http://web/", "said twice"),
            ("POST tcp://db:1", "has no method"),
            ("ftp://web/", "http, https, tls and tcp"),
            ("tcp://db", "has no port"),
            ("http://u:p@web/", "authorization: Basic"),
            ("http://web:70000/", "no URL"),
            ("http://web:0/", "its port is none"),
            ("http:///x", "no URL"),
            ("http://127.64.0.1/", "name the service instead"),
        ] {
            let failure = read(line).unwrap_err();
            assert!(format!("{failure:?}").contains(says), "{line}: {failure:?}");
        }
    }
}
