//! A client of HTTP/1 that sends bytes and reads what comes until its connection ends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http1::{self, Message, Read};
use super::table::text;

/// Nothing takes so long but what never ends.
const SOON: Duration = Duration::from_secs(30);

/// What a client does.
#[derive(Clone, Copy, Default)]
pub struct Sending {
    /// Byte after byte.
    pub pieces: bool,
    /// It closes its side then.
    pub ends: bool,
}

/// Everything that comes back; `Err` if the connection does not end.
pub async fn exchange(entry: SocketAddr, bytes: &[u8], sending: Sending) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect(entry).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.into_split();
    let send = async {
        // Whoever was refused in the middle is not listened to to the end.
        if sending.pieces {
            for byte in bytes {
                if write.write_all(std::slice::from_ref(byte)).await.is_err() {
                    break;
                }
            }
        } else {
            let _ = write.write_all(bytes).await;
        }
        if sending.ends {
            let _ = write.shutdown().await;
        }
    };
    let mut answer = Vec::new();
    let receive = async { while let Ok(1..) = read.read_buf(&mut answer).await {} };
    match timeout(SOON, async { tokio::join!(send, receive) }).await {
        Ok(_) => Ok(answer),
        Err(_) => Err(format!("it did not end; so far came {}", text(&answer))),
    }
}

/// Answers as they came, without interim ones, and what was left of one that was cut. `bodiless`: which of them are to
/// HEAD.
pub fn answers(bytes: &[u8], bodiless: &[bool]) -> Result<(Vec<Message>, Vec<u8>), String> {
    let mut answers: Vec<Message> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let bodiless = bodiless.get(answers.len()).copied().unwrap_or_default();
        match http1::response(rest, bodiless, true) {
            Read::Whole(answer, used) => {
                rest = &rest[used..];
                if !answer.status().starts_with('1') || answer.status() == "101" {
                    answers.push(answer);
                }
            }
            Read::More => break,
            Read::Bad(why) => {
                return Err(format!("the client got what is no answer ({why}): {}", text(rest)));
            }
        }
    }
    Ok((answers, rest.to_vec()))
}
