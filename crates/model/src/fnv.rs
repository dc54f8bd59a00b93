//! A hash that is the same in every run and on every host, for names that are made of something.

/// FNV-1a in 64 bits, over all parts as one.
pub fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = parts.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The same folded to 32 bits, as its authors advise.
pub fn fnv1a_32<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let hash = fnv1a(parts);
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the test vectors of the authors.
    #[test]
    fn it_is_fnv1a() {
        assert_eq!(fnv1a([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([b"foo".as_slice(), b"bar"]), 0x8594_4171_f739_67e8);
        assert_eq!(fnv1a_32([b"foobar".as_slice()]), 0x8594_4171 ^ 0xf739_67e8);
    }
}
