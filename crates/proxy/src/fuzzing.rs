//! The fuzz targets of the data plane: docs/fuzzing.md. Each takes any bytes, and panics where something is wrong.

pub use crate::http::http1::fuzzing::{http1_answers, http1_bodies, http1_requests};
pub use crate::http2::fuzzing::http2;
pub use crate::http2::hpack::fuzzing::hpack;
pub use crate::tls::fuzzing::tls;

#[cfg(test)]
mod tests {
    use tulle_fuzz::check;

    #[test]
    fn requests_of_http1_are_read_in_one_way() {
        check("http1_requests", super::http1_requests);
    }

    #[test]
    fn answers_of_http1_are_read_in_one_way() {
        check("http1_answers", super::http1_answers);
    }

    #[test]
    fn chunked_bodies_are_read_in_one_way() {
        check("http1_bodies", super::http1_bodies);
    }

    #[test]
    fn windows_and_bytes_of_http2_add_up() {
        check("http2", super::http2);
    }

    #[test]
    fn records_are_read_once_and_in_order() {
        check("tls", super::tls);
    }

    #[test]
    fn header_blocks_are_read_in_one_way() {
        check("hpack", super::hpack);
    }
}
