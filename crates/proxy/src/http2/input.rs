//! Where a connection is in the bytes that its peer sends.

/// Where in the byte stream we are.
pub(super) struct FrameInput {
    /// What of a frame has come, where it did not come whole.
    pub partial: Vec<u8>,
    pub expect: Expect,
    pub block: Option<BlockBegun>,
    /// Frames that came in pieces, and header blocks that did.
    pub in_pieces: u64,
}

pub(super) enum Expect {
    /// So many bytes of the preface have come.
    Preface(usize),
    Frame,
    Data(Data),
}

/// A DATA frame whose payload is passed on as it comes.
#[derive(Clone, Copy)]
pub(super) struct Data {
    pub stream: u32,
    /// Bytes of data, then of padding, that are still to come.
    pub left: usize,
    pub padding: usize,
    pub end: bool,
}

/// A header block that goes on in CONTINUATION frames.
pub(super) struct BlockBegun {
    pub stream: u32,
    pub end: bool,
    pub bytes: Vec<u8>,
    pub frames: usize,
}

impl FrameInput {
    pub(super) fn new(server: bool) -> Self {
        let expect = if server { Expect::Preface(0) } else { Expect::Frame };
        Self { partial: Vec::new(), expect, block: None, in_pieces: 0 }
    }

    /// The memory of what has come and is no whole frame or header block yet.
    pub(super) fn held(&self) -> usize {
        self.partial.capacity() + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
    }

    /// The number of what was begun and is to be finished, if there is something.
    pub(super) fn begun(&self) -> Option<u64> {
        let begun = !self.partial.is_empty()
            || self.block.is_some()
            || matches!(self.expect, Expect::Preface(seen) if seen > 0);
        begun.then_some(self.in_pieces)
    }

    /// What is to come of a DATA frame that was begun.
    pub(super) fn data_left(&self) -> Option<usize> {
        match self.expect {
            Expect::Data(data) => Some(data.left + data.padding),
            _ => None,
        }
    }
}
