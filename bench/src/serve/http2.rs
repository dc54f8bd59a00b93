use super::Next;
use crate::event::Output;
use std::io;
use std::net::TcpStream;
pub struct State;
impl State {
    pub fn new(_: &mut Output) -> Self {
        Self
    }
    pub fn step(&mut self, _: &TcpStream, _: &mut Vec<u8>, _: &mut Output, _: &mut [u8]) -> io::Result<Next> {
        Ok(Next::Close)
    }
    pub fn received(&mut self, _: &[u8], _: &TcpStream, _: &mut Vec<u8>, _: &mut Output) -> io::Result<Next> {
        Ok(Next::Close)
    }
}
