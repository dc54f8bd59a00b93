//! Paths into JSON, as errors name places by them (RFC 6901).

/// Adds the name of a field to a pointer (section 3).
pub fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for char in token.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}
