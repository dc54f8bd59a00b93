//! A reader of HTTP/1 that forgives nothing, by which what comes out of the proxy is judged: what it takes, every
//! other reader must take in the same way.

/// A message as it came, in the form that the tables compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub first: Vec<u8>,
    /// Names in lower case, in the order of their names; those of one name as they came.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What bytes begin with.
pub enum Read {
    /// A message, and how many bytes it took.
    Whole(Message, usize),
    More,
    /// What nobody may send.
    Bad(&'static str),
}

impl Message {
    /// The method of a request.
    pub fn method(&self) -> &[u8] {
        self.first.split(|&byte| byte == b' ').next().unwrap()
    }

    /// The status of an answer.
    pub fn status(&self) -> &str {
        std::str::from_utf8(&self.first[9..12]).unwrap()
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.0 == name.as_bytes())
    }

    /// As the tables write it: `first line | field | field || body || trailer`. Of the framing it says nothing, in
    /// which senders are free.
    pub fn canonical(&self, dropped: &[&str]) -> Vec<u8> {
        let mut parts = vec![self.first.clone()];
        let kept = self.fields.iter().filter(|field| !dropped.iter().any(|name| name.as_bytes() == field.0));
        parts.extend(kept.map(|(name, value)| [name, &b": "[..], value].concat()));
        let mut out = parts.join(&b" | "[..]);
        if !self.body.is_empty() || !self.trailers.is_empty() {
            out.extend_from_slice(b" || ");
            out.extend_from_slice(&self.body);
        }
        if !self.trailers.is_empty() {
            out.extend_from_slice(b" || ");
            let lines = self.trailers.iter().map(|(name, value)| [name, &b": "[..], value].concat());
            out.extend_from_slice(&lines.collect::<Vec<_>>().join(&b" | "[..]));
        }
        out
    }
}

/// Reads a request.
pub fn request(bytes: &[u8]) -> Read {
    read(bytes, true, false, false)
}

/// Reads an answer. `bodiless`: it is one to HEAD. `ended`: nothing more will come.
pub fn response(bytes: &[u8], bodiless: bool, ended: bool) -> Read {
    read(bytes, false, bodiless, ended)
}

fn read(bytes: &[u8], request: bool, bodiless: bool, ended: bool) -> Read {
    let Some(head) = find(bytes, b"\r\n\r\n") else {
        // What is wrong already is not waited for.
        return if bytes.contains(&0) { Read::Bad("NUL in a head") } else { Read::More };
    };
    let length = head + 4;
    let mut lines = split(&bytes[..head]);
    let first = lines.remove(0).to_vec();
    let line = if request { request_line(&first) } else { status_line(&first) };
    if let Err(bad) = line {
        return Read::Bad(bad);
    }
    let mut fields = match fields(&lines) {
        Ok(fields) => fields,
        Err(bad) => return Read::Bad(bad),
    };
    let values = |name: &[u8]| fields.iter().filter(|f| f.0 == name).map(|f| f.1.clone()).collect::<Vec<_>>();
    let (lengths, codings) = (values(b"content-length"), values(b"transfer-encoding"));
    if request && values(b"host").len() != 1 {
        return Read::Bad("not one Host");
    }
    if lengths.len() + codings.len() > 1 {
        return Read::Bad("framed in two ways");
    }
    let status = if request { 0 } else { std::str::from_utf8(&first[9..12]).unwrap().parse().unwrap() };
    let none = bodiless || (!request && (status < 200 || status == 204 || status == 304));
    if !request && (status < 200 || status == 204) && lengths.len() + codings.len() > 0 {
        return Read::Bad("framing where there is no body");
    }
    let (body, trailers, used) = if none {
        (Vec::new(), Vec::new(), length)
    } else if let Some(coding) = codings.first() {
        if coding != b"chunked" {
            return Read::Bad("another coding than chunked");
        }
        match chunks(&bytes[length..]) {
            Ok(Some((body, trailers, used))) => (body, trailers, length + used),
            Ok(None) => return Read::More,
            Err(bad) => return Read::Bad(bad),
        }
    } else if let Some(said) = lengths.first() {
        let text = std::str::from_utf8(said).unwrap_or_default();
        let Ok(size) = text.parse::<usize>() else { return Read::Bad("no length") };
        if text != size.to_string() {
            return Read::Bad("a length in another form");
        }
        match bytes.get(length..length + size) {
            Some(body) => (body.to_vec(), Vec::new(), length + size),
            None => return Read::More,
        }
    } else if request {
        (Vec::new(), Vec::new(), length)
    } else if ended {
        (bytes[length..].to_vec(), Vec::new(), bytes.len())
    } else {
        return Read::More;
    };
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Read::Whole(Message { first, fields, body, trailers }, used)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Lines that end with CR and LF.
fn split(head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn request_line(line: &[u8]) -> Result<(), &'static str> {
    let words: Vec<_> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = words[..] else { return Err("no request line of three words") };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err("no method");
    }
    if target.is_empty() || target.iter().any(|&byte| byte < b'!' || byte == 0x7f) {
        return Err("no target");
    }
    if version != b"HTTP/1.1" {
        return Err("not HTTP/1.1");
    }
    Ok(())
}

fn status_line(line: &[u8]) -> Result<(), &'static str> {
    let version = line.get(..9).ok_or("no status line")?;
    if version != b"HTTP/1.1 " && version != b"HTTP/1.0 " {
        return Err("no version");
    }
    if line.len() < 13 || !line[9..12].iter().all(u8::is_ascii_digit) || line[12] != b' ' {
        return Err("no status");
    }
    if line[13..].iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
        return Err("no reason");
    }
    Ok(())
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn fields(lines: &[&[u8]]) -> Result<Fields, &'static str> {
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':').ok_or("a field without a colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err("no field name");
        }
        if value.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            return Err("no field value");
        }
        fields.push((name.to_ascii_lowercase(), value.trim_ascii().to_vec()));
    }
    Ok(fields)
}

type Chunked = (Vec<u8>, Fields, usize);

/// The data and the trailers of a chunked body, and how many bytes it is.
fn chunks(bytes: &[u8]) -> Result<Option<Chunked>, &'static str> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[at..at + end]).map_err(|_| "no chunk size")?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("no chunk size");
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| "no chunk size")?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk longer than its size");
        }
        data.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
    if bytes[at..].starts_with(b"\r\n") {
        return Ok(Some((data, Vec::new(), at + 2)));
    }
    let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
    let trailers = fields(&split(&bytes[at..at + end]))?;
    Ok(Some((data, trailers, at + end + 4)))
}
