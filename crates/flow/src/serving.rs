//! The process that evaluates expressions, and holds values against schemas: `tulle flow-evaluator`. It takes requests on its standard input, one after the other, and
//! answers on its standard output. It ends when its input does, so that it never outlives whoever started it, whatever it is
//! doing: one thread reads, and another evaluates.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use crate::answer::{Answer, Ending};
use crate::checker::Checker;
use crate::jaq::Jaq;
use crate::request::{self, Asked, LARGEST_FRAME};

/// The byte that it says first, when it can be asked.
pub(crate) const READY: u8 = b'!';

/// What an expression may take of the stack.
const STACK: usize = 16 << 20;

/// Serves until its input ends, and does not return then.
pub fn serve() -> ExitCode {
    // What a panic is about goes into the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let (requests, received) = mpsc::sync_channel(1);
    let started = tulle_sys::restrict::open_nothing()
        .and_then(|()| thread::Builder::new().stack_size(STACK).spawn(move || evaluate_all(&received)));
    if let Err(error) = started {
        eprintln!("the evaluator of expressions cannot start: {error}");
        return ExitCode::FAILURE;
    }
    let mut input = io::stdin().lock();
    while let Ok(Some(frame)) = read(&mut input) {
        if requests.send(frame).is_err() {
            break;
        }
    }
    // Whatever goes on in the other thread.
    std::process::exit(0)
}

/// A frame without its length.
fn read(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_ne_bytes(length) as usize;
    if length > LARGEST_FRAME {
        return Ok(None);
    }
    let mut frame = vec![0; length];
    input.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn evaluate_all(received: &mpsc::Receiver<Vec<u8>>) {
    let mut output = io::stdout().lock();
    let (jaq, checker) = (Jaq::new(), Checker::new());
    if output.write_all(&[READY]).and_then(|()| output.flush()).is_err() {
        return;
    }
    while let Ok(frame) = received.recv() {
        let answer = match request::decode(&frame) {
            Some(asked) => {
                let outcome = catch_unwind(AssertUnwindSafe(|| match &asked {
                    Asked::Value(request) => jaq.evaluate(request),
                    Asked::Check(check) => checker.check(check),
                }));
                outcome.unwrap_or_else(|panic| {
                    let words = panic.downcast_ref::<String>().map(String::as_str);
                    let words =
                        words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
                    Answer { ending: Ending::Panicked, ..Answer::failed(words) }
                })
            }
            None => Answer::failed("the request is none"),
        };
        if answer.write(&mut output).is_err() {
            return;
        }
    }
}
