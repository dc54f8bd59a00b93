//! A peer of HTTP/2 that does what a table says, and looks at what comes back.
//!
//! That nothing happens is seen by a PING: what was to come before its answer has come. Every script that does not
//! end the connection ends with one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::frames::{self, Frame, HEADERS, Macros, PREFACE, SETTINGS};
use super::http1::Message;
use super::recorder::{Log, Seen};

const SOON: Duration = Duration::from_secs(30);

/// What is known of a stream.
#[derive(Debug, Default, Clone)]
pub struct Stream {
    pub status: String,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub data: Vec<u8>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
    pub ended: bool,
    pub reset: Option<String>,
}

impl Stream {
    /// A request in the form of HTTP/1.
    fn request(&self) -> Message {
        let value = |name: &[u8]| {
            let field = self.fields.iter().find(|field| field.0 == name);
            field.map(|field| field.1.clone()).unwrap_or_default()
        };
        let first = [value(b":method"), value(b":path"), b"HTTP/1.1".to_vec()].join(&b' ');
        let mut fields: Vec<_> =
            self.fields.iter().filter(|field| !field.0.starts_with(b":")).cloned().collect();
        fields.push((b"host".to_vec(), value(b":authority")));
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Message { first, fields, body: self.data.clone(), trailers: self.trailers.clone() }
    }
}

/// One side of a connection.
pub struct Peer<IO> {
    io: IO,
    input: Vec<u8>,
    decoder: fluke_hpack::Decoder<'static>,
    /// A header block that is not whole: its stream, and whether it is the last of the stream.
    block: Option<(u32, bool, Vec<u8>)>,
    pub streams: BTreeMap<u32, Stream>,
    /// Streams whose reset was expected.
    forgiven: BTreeSet<u32>,
    going: Option<String>,
    ended: bool,
    settings: bool,
    acknowledged: usize,
    pongs: Vec<Vec<u8>>,
    /// Frames that came, for people.
    log: Vec<String>,
    /// Settings are acknowledged.
    pub acknowledges: bool,
    preface: usize,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Peer<IO> {
    /// `server`: the other side is a client, and begins with the preface.
    pub fn new(io: IO, server: bool) -> Self {
        Self {
            io,
            input: Vec::new(),
            decoder: fluke_hpack::Decoder::new(),
            block: None,
            streams: BTreeMap::new(),
            forgiven: BTreeSet::new(),
            going: None,
            ended: false,
            settings: false,
            acknowledged: 0,
            pongs: Vec::new(),
            log: Vec::new(),
            acknowledges: true,
            preface: if server { PREFACE.len() } else { 0 },
        }
    }

    /// Sends bytes. Whoever was told to go does not listen any more, which is seen when it is read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let send = async {
            let _ = self.io.write_all(bytes).await;
            let _ = self.io.flush().await;
        };
        // It may wait for us to read.
        let _ = timeout(SOON, send).await;
    }

    /// Answers all requests with `ok`, as a server, and writes them down in the form of HTTP/1, until the connection ends.
    pub async fn serve(&mut self, log: &Log) {
        let mut answered = BTreeSet::new();
        while !self.ended {
            let over = self.streams.iter().filter(|(id, stream)| stream.ended && !answered.contains(*id));
            let over: Vec<_> = over.map(|(id, stream)| (*id, stream.clone())).collect();
            for (id, stream) in over {
                answered.insert(id);
                let request = stream.request();
                let mut out = Vec::new();
                let head = request.method() == b"HEAD";
                Frame::new(HEADERS, if head { 5 } else { 4 }, id, &frames::block(":status: 200"))
                    .write(&mut out);
                if !head {
                    Frame::new(0, 1, id, b"ok").write(&mut out);
                }
                log.note(Seen::Request(request, Vec::new()));
                self.send(&out).await;
            }
            self.read().await;
        }
        for stream in self.streams.values().filter(|stream| !stream.ended) {
            log.note(Seen::Cut(stream.data.clone()));
        }
    }

    /// Plays a script; `macros` says what words stand for that are no pieces.
    pub async fn play(&mut self, script: &[(String, String)], macros: &Macros) -> Result<(), String> {
        let (mut over, mut waits) = (false, Vec::new());
        for (key, line) in script {
            match key.as_str() {
                // What comes one after the other comes at once.
                ">" => waits.extend(frames::line(line, macros)),
                "<" => {
                    self.send(&std::mem::take(&mut waits)).await;
                    let expected: Vec<&str> = line.split(" or ").collect();
                    self.expect(&expected)
                        .await
                        .map_err(|why| format!("expected {line}: {why}; came: {}", self.log.join(", ")))?;
                    over |= self.going.is_some() || self.ended;
                }
                _ => {}
            }
        }
        self.send(&waits).await;
        if over {
            return Ok(());
        }
        self.expect(&["alive"])
            .await
            .map_err(|why| format!("at the end: {why}; came: {}", self.log.join(", ")))
    }

    /// Waits until one of them holds.
    pub async fn expect(&mut self, expected: &[&str]) -> Result<(), String> {
        let ping = [b"conform".to_vec(), vec![self.pongs.len() as u8]].concat();
        if expected.contains(&"alive") {
            let mut out = Vec::new();
            Frame::new(6, 0, 0, &ping).write(&mut out);
            self.send(&out).await;
        }
        let wait = async {
            loop {
                let checked = self.check_expected(expected);
                if expected.iter().any(|expected| self.holds(expected, &ping)) {
                    return Ok(());
                }
                checked?;
                if let Some(answered) = self.answered_otherwise(expected) {
                    return Err(answered);
                }
                if self.ended {
                    return Err("the connection ended".to_owned());
                }
                self.read().await;
            }
        };
        match timeout(SOON, wait).await {
            Ok(outcome) => outcome,
            Err(_) => Err("nothing of it came".to_owned()),
        }
    }

    fn holds(&self, expected: &str, ping: &[u8]) -> bool {
        let mut words = expected.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let among = |codes: &str, code: &str| codes.split('|').any(|one| one == code);
        match word() {
            "alive" => self.pongs.iter().any(|pong| pong == ping),
            // Told why, and then closed.
            "goaway" => self.ended && self.going.as_deref().is_some_and(|code| among(word(), code)),
            "going" => self.going.as_deref().is_some_and(|code| among(word(), code)),
            "closed" => self.ended,
            // Told, or not listening any more: who sends without end need not have read it.
            "calmed" => self.ended && self.going.as_deref().is_none_or(|code| code == "ENHANCE_YOUR_CALM"),
            "settings" => self.settings,
            "settings-ack" => self.acknowledged >= word().parse().unwrap_or(1),
            "ping" => self.pongs.contains(&frames::hex(word())),
            kind => {
                let Some(stream) = word().parse().ok().and_then(|id: u32| self.streams.get(&id)) else {
                    return false;
                };
                match kind {
                    "reset" => stream.reset.as_deref().is_some_and(|code| among(word(), code)),
                    "answer" => among(word(), &stream.status) && stream.ended,
                    "head" => among(word(), &stream.status),
                    "request" => !stream.fields.is_empty(),
                    "body" => stream.ended,
                    "data" => stream.data.len() == word().parse::<usize>().unwrap(),
                    other => panic!("what is {other}"),
                }
            }
        }
    }

    /// What is expected is a stream's fate, and it has another.
    fn answered_otherwise(&self, expected: &[&str]) -> Option<String> {
        let fate = |expected: &&str| {
            let mut words = expected.split(' ');
            let kind = words.next()?;
            let id: u32 = words.next()?.parse().ok()?;
            matches!(kind, "answer" | "reset").then_some(id)
        };
        let ids: Option<Vec<u32>> = expected.iter().map(fate).collect();
        let id = ids.filter(|ids| ids.iter().all(|id| *id == ids[0])).map(|ids| ids[0])?;
        let stream = self.streams.get(&id).filter(|stream| stream.ended && !stream.status.is_empty())?;
        Some(format!("stream {id} was answered with {}", stream.status))
    }

    /// What ends something is expected, or wrong.
    fn check_expected(&mut self, expected: &[&str]) -> Result<(), String> {
        let of = |kind: &str| expected.iter().any(|expected| expected.starts_with(kind));
        if let Some(code) = &self.going
            && !(of("goaway") || of("closed") || of("going") || of("calmed"))
        {
            return Err(format!("it is told to go ({code})"));
        }
        if of("calmed") {
            return Ok(());
        }
        for (id, stream) in &self.streams {
            let Some(code) = &stream.reset else { continue };
            let wanted = format!("reset {id} ");
            if expected.iter().any(|expected| expected.starts_with(&wanted)) {
                // When the next thing is awaited, it is no news.
                self.forgiven.insert(*id);
            } else if !(self.forgiven.contains(id) || (stream.ended && code == "NO_ERROR")) {
                return Err(format!("stream {id} was reset ({code})"));
            }
        }
        Ok(())
    }

    /// Reads something, and takes what is whole.
    async fn read(&mut self) {
        match self.io.read_buf(&mut self.input).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => self.ended = true,
        }
        if self.preface > 0 {
            let count = self.preface.min(self.input.len());
            self.input.drain(..count);
            self.preface -= count;
        }
        while let Some(frame) = Frame::take(&mut self.input) {
            self.take(frame).await;
        }
    }

    async fn take(&mut self, frame: Frame) {
        let Frame { kind, flags, stream, .. } = frame;
        self.log.push(match kind {
            3 => format!("RST_STREAM {stream} {}", frames::code(frame.number(0))),
            7 => format!(
                "GOAWAY {} {:?}",
                frames::code(frame.number(4)),
                String::from_utf8_lossy(&frame.payload[8..])
            ),
            _ => format!("{} {flags:#x} {stream} ({})", frames::kind(kind), frame.payload.len()),
        });
        match kind {
            0 => {
                let padding = if frame.has(8) { usize::from(frame.payload[0]) + 1 } else { 0 };
                let start = usize::from(frame.has(8));
                let data = &frame.payload[start..frame.payload.len() + start - padding];
                let stream = self.streams.entry(stream).or_default();
                stream.data.extend_from_slice(data);
                stream.ended |= frame.has(1);
            }
            HEADERS => self.block = Some((stream, frame.has(1), frame.payload.clone())),
            9 => {
                if let Some(block) = &mut self.block {
                    block.2.extend_from_slice(&frame.payload);
                }
            }
            3 => self.streams.entry(stream).or_default().reset = Some(frames::code(frame.number(0))),
            SETTINGS if frame.has(1) => self.acknowledged += 1,
            SETTINGS => {
                self.settings = true;
                if self.acknowledges {
                    let mut out = Vec::new();
                    Frame::new(SETTINGS, 1, 0, &[]).write(&mut out);
                    self.send(&out).await;
                }
            }
            6 if frame.has(1) => self.pongs.push(frame.payload.clone()),
            6 => {
                let mut out = Vec::new();
                Frame::new(6, 1, 0, &frame.payload).write(&mut out);
                self.send(&out).await;
            }
            7 => self.going = Some(frames::code(frame.number(4))),
            _ => {}
        }
        if matches!(kind, 1 | 9)
            && frame.has(4)
            && let Some((id, last, block)) = self.block.take()
        {
            let fields = self.decoder.decode(&block).unwrap_or_default();
            let stream = self.streams.entry(id).or_default();
            if let Some(status) = fields.iter().find(|field| field.0 == b":status") {
                // After interim answers, the last one counts.
                stream.status = String::from_utf8_lossy(&status.1).into_owned();
                stream.fields = fields;
            } else if stream.fields.is_empty() {
                stream.fields = fields;
            } else {
                stream.trailers = fields;
            }
            stream.ended |= last;
        }
    }
}
