//! Finds the first entry of a table that matches without a look at all of them.
//!
//! The paths of exact and prefix matches make a trie of path elements. A request walks down it as far
//! as its path goes, and back up: what it passes is the exact match of the whole path, then the prefixes,
//! longest first. The entries at one place are few, and chained in the order of the table. Regular
//! expressions have nothing to be found by; they are tried one after the other.
//!
//! The order of the table is never assumed: what is found first is held against everything else that
//! stands before it. In a table in Gateway API's order that is nothing or little.
//!
//! A request costs as many look-ups as its path has elements in the trie, however long it is: the
//! sender cannot make it dear.

use crate::snapshot::{FastMap, HttpRouteEntry, PathMatch};

/// Up to so many entries a plain walk is as fast, and needs no memory.
const WALKED: usize = 8;

/// The end of a chain.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(crate) struct RouteIndex {
    /// The first is the root: the prefix of every path.
    nodes: Vec<TrieNode>,
    /// By the path to it from the root, which begins with `/`.
    by_path: FastMap<Box<str>, u32>,
    /// For every entry the next one with the same path, of the same kind.
    next: Vec<u32>,
    /// The first of the chain of entries that are found by no path: regular expressions, and what
    /// does not begin with `/`.
    unindexed: u32,
}

/// A path. Positions are those of entries in the table.
#[derive(Debug, Clone)]
struct TrieNode {
    parent: u32,
    /// The first entries of the chains of those that match this path alone, and this and all below.
    exact: u32,
    prefix: u32,
}

impl RouteIndex {
    /// `None`: the table is so small that a walk does.
    pub fn new(entries: &[HttpRouteEntry]) -> Option<Self> {
        if entries.len() <= WALKED {
            return None;
        }
        let root = TrieNode { parent: NONE, exact: NONE, prefix: NONE };
        let mut index = Self {
            nodes: vec![root],
            by_path: FastMap::default(),
            next: vec![NONE; entries.len()],
            unindexed: NONE,
        };
        // From behind, so that each goes to the head of its chain.
        for (position, entry) in entries.iter().enumerate().rev() {
            let position = u32::try_from(position).ok().filter(|&position| position != NONE)?;
            let chain = match &entry.matcher.path {
                PathMatch::Exact(path) if path.starts_with('/') => {
                    let node = index.node(path);
                    &mut index.nodes[node].exact
                }
                PathMatch::Prefix(path) if path.is_empty() || path.starts_with('/') => {
                    let node = index.node(path);
                    &mut index.nodes[node].prefix
                }
                _ => &mut index.unindexed,
            };
            index.next[position as usize] = std::mem::replace(chain, position);
        }
        index.by_path.shrink_to_fit();
        index.nodes.shrink_to_fit();
        Some(index)
    }

    /// The node of a path that is empty or begins with `/`, made with all above it where it is not there.
    fn node(&mut self, path: &str) -> usize {
        let mut node = 0;
        for end in ends(path) {
            let path = &path[..end];
            node = match self.by_path.get(path) {
                Some(&known) => known,
                None => {
                    let new = self.nodes.len() as u32;
                    self.nodes.push(TrieNode { parent: node, exact: NONE, prefix: NONE });
                    self.by_path.insert(path.into(), new);
                    new
                }
            };
        }
        node as usize
    }

    /// The position of the first entry that matches. `path`: the request's, not empty. `conditions`:
    /// whether all of an entry holds but its path, of which that is known; `all`: whether all of it does.
    pub fn first(
        &self,
        path: &str,
        conditions: impl Fn(usize) -> bool,
        all: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut deepest = 0;
        let mut reached = 0;
        if path.starts_with('/') {
            for end in ends(path) {
                let Some(&node) = self.by_path.get(&path[..end]) else { break };
                (deepest, reached) = (node, end);
            }
        }
        let mut best = NONE;
        if reached == path.len() {
            best = self.first_of(self.nodes[deepest as usize].exact, best, &conditions);
        }
        while deepest != 0 {
            let node = &self.nodes[deepest as usize];
            best = self.first_of(node.prefix, best, &conditions);
            deepest = node.parent;
        }
        best = self.first_of(self.unindexed, best, &all);
        // Last, because it is last in a table that is in order.
        best = self.first_of(self.nodes[0].prefix, best, &conditions);
        (best != NONE).then_some(best as usize)
    }

    /// The first of a chain that holds and stands before `best`, or `best`.
    fn first_of(&self, mut position: u32, best: u32, holds: impl Fn(usize) -> bool) -> u32 {
        // `NONE` is after every position.
        while position < best {
            if holds(position as usize) {
                return position;
            }
            position = self.next[position as usize];
        }
        best
    }
}

/// Where the elements of a path end that is empty or begins with `/`: of `/a//b` after `/a`, `/a/`
/// and all of it. An empty path has none.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    let slashes = path.bytes().enumerate().skip(1).filter(|&(_, byte)| byte == b'/').map(|(at, _)| at);
    slashes.chain((!path.is_empty()).then_some(path.len()))
}
