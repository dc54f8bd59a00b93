//! Whether what failed may be tried again: what each failure means for that.

use tulle_model::retry::Failure;

use crate::budget::Shed;
use crate::error::{UpstreamError, UpstreamErrorKind};
use crate::http2::ErrorCode;

/// What a failure means for another attempt. `idempotent`: what was asked does no harm when it is done twice.
pub(crate) fn failure_of(error: &UpstreamError, idempotent: bool) -> Failure {
    let harmless = match error.kind {
        // The caller's share is the same, wherever it goes. Another application may have room.
        UpstreamErrorKind::Shed(Shed::Memory | Shed::Descriptors) => return Failure::Final,
        UpstreamErrorKind::Draining | UpstreamErrorKind::LinkPending if error.safe_to_retry => {
            return Failure::Uncounted;
        }
        UpstreamErrorKind::ConnectionLost | UpstreamErrorKind::ShedThere(_) => true,
        // What another attempt does not change, or makes worse (RFC 9113, section 7).
        UpstreamErrorKind::Reset(code) => !matches!(
            ErrorCode(code),
            ErrorCode::PROTOCOL_ERROR
                | ErrorCode::ENHANCE_YOUR_CALM
                | ErrorCode::INADEQUATE_SECURITY
                | ErrorCode::HTTP_1_1_REQUIRED
        ),
        _ => false,
    };
    match (error.safe_to_retry, harmless && idempotent) {
        (true, _) => Failure::Unsent,
        (false, true) => Failure::Harmless,
        (false, false) => Failure::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_no_harm_is_repeated() {
        let lost = UpstreamError::after_sending(UpstreamErrorKind::ConnectionLost, "");
        assert_eq!(failure_of(&lost, true), Failure::Harmless);
        assert_eq!(failure_of(&lost, false), Failure::Final);
        assert_eq!(failure_of(&UpstreamError::safe(UpstreamErrorKind::Connect, ""), false), Failure::Unsent);
        assert_eq!(
            failure_of(&UpstreamError::after_sending(UpstreamErrorKind::Timeout, ""), true),
            Failure::Final
        );
        assert_eq!(
            failure_of(&UpstreamError::safe(UpstreamErrorKind::Draining, ""), false),
            Failure::Uncounted
        );
        assert_eq!(failure_of(&UpstreamError::shed(Shed::Memory), true), Failure::Final);
        assert_eq!(failure_of(&UpstreamError::shed(Shed::Applications), false), Failure::Unsent);
        // A reset by the application may have come after it did something.
        let reset = |code| UpstreamError::after_sending(UpstreamErrorKind::Reset(code), "");
        assert_eq!(failure_of(&reset(2), true), Failure::Harmless);
        assert_eq!(failure_of(&reset(2), false), Failure::Final);
        for code in [1, 11, 12, 13] {
            assert_eq!(failure_of(&reset(code), true), Failure::Final, "{code}");
        }
    }
}
