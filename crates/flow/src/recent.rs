//! What was compiled of the texts that were used last.

use std::cell::RefCell;

/// Keeps what was made of texts, and drops what was not used for the longest time.
pub(crate) struct Recent<T> {
    /// The one that was used last is at the end.
    kept: RefCell<Vec<(Box<str>, T)>>,
    /// How many, and how many bytes their texts may have together; the last is kept in any case.
    most: usize,
    most_bytes: usize,
}

impl<T: Clone> Recent<T> {
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self { kept: RefCell::default(), most, most_bytes }
    }

    /// What was made of a text, or is made of it now. What cannot be made is not kept.
    pub(crate) fn get<E>(&self, text: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut kept = self.kept.borrow_mut();
        let found = match kept.iter().position(|(known, _)| **known == *text) {
            Some(at) => kept.remove(at),
            None => (text.into(), make()?),
        };
        let made = found.1.clone();
        kept.push(found);
        let bytes = |kept: &[(Box<str>, T)]| kept.iter().map(|(text, _)| text.len()).sum::<usize>();
        while kept.len() > self.most || bytes(&kept) > self.most_bytes.max(text.len()) {
            drop(kept.remove(0));
        }
        Ok(made)
    }

    #[cfg(test)]
    pub(crate) fn texts(&self) -> Vec<String> {
        self.kept.borrow().iter().map(|(text, _)| text.to_string()).collect()
    }
}
