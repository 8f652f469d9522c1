//! A message that is larger than the limit is refused below the services, in words and with a code that no client can
//! act on. Here it becomes a refusal like any other.

use caudal_domain::Refusal;
use caudal_domain::limits::MAX_MESSAGE_BYTES;
use caudal_proto::status::to_status;
use tonic::{Code, Status};

/// The refusal of a message beyond the limit, when the response is one.
pub(crate) fn refusal(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange || !status.message().contains("message length too large") {
        return None;
    }
    let found = status
        .message()
        .split_once("found ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .map(|(n, _)| n);
    let bytes = found.map_or_else(String::new, |bytes| format!("{bytes} bytes, "));
    Some(to_status(
        &Refusal::invalid(
            "(message)",
            format!("the message is too large: {bytes}the limit is {MAX_MESSAGE_BYTES}; send smaller pages"),
        )
        .with_reason("MESSAGE_TOO_LARGE"),
    ))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_proto::status::from_status;

    #[test]
    fn the_refusal_tells_the_size_the_limit_and_the_remedy() {
        let below = Status::out_of_range(
            "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
        );
        let refused = from_status(&refusal(&below).unwrap());
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "MESSAGE_TOO_LARGE")
        );
        assert!(
            refused
                .message
                .contains("5000000 bytes, the limit is 4194304; send smaller pages")
        );
        assert!(refusal(&Status::out_of_range("page_token")).is_none());
    }
}
