//! A message that is larger than a limit, or that cannot be read, is refused below the services, in words and with a code
//! that no client can act on. Here it becomes a refusal like any other. A request that is too large was not read, and is the caller's to mend. An
//! answer that is too large is no fault of the caller's, and what was asked may have been done.

use caudal_domain::{Refusal, RefusalKind};
use caudal_node::metrics::{Counter, Registry};
use caudal_proto::status::{from_status, to_status};
use http::HeaderMap;
use tonic::{Code, Status};

const ANSWER_TOO_LARGE: &str = "ANSWER_TOO_LARGE";

/// A message beyond a limit, as tonic words it.
struct TooLarge<'a> {
    is_read: bool,
    bytes: &'a str,
    limit: &'a str,
}

impl<'a> TooLarge<'a> {
    /// Reads `Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes`, or `encoded` of a message that
    /// was to be sent.
    fn of(status: &'a Status) -> Option<Self> {
        if status.code() != Code::OutOfRange {
            return None;
        }
        let (what, figures) = status.message().split_once(" message length too large")?;
        let figure_after = |words| {
            let (_, rest) = figures.split_once(words)?;
            rest.split(' ').next()
        };
        Some(Self {
            is_read: what.ends_with("decoded"),
            bytes: figure_after("found ").unwrap_or("?"),
            limit: figure_after("limit is: ").unwrap_or("?"),
        })
    }

    fn request(&self) -> Status {
        let Self { bytes, limit, .. } = self;
        let words = format!(
            "the message is too large: {bytes} bytes, the limit is {limit}; send smaller pages"
        );
        to_status(&Refusal::invalid("(message)", words).with_reason("MESSAGE_TOO_LARGE"))
    }

    fn answer(&self) -> Status {
        let Self { bytes, limit, .. } = self;
        let words = format!(
            "the answer is too large to be sent: {bytes} bytes, the limit is {limit}; what was asked may have been done: \
             look before you ask it again, and ask for a smaller page"
        );
        let refusal = Refusal::new(RefusalKind::Internal, ANSWER_TOO_LARGE, words);
        to_status(
            &refusal
                .with_metadata("bytes", *bytes)
                .with_metadata("limit", *limit),
        )
    }
}

/// How prost begins what it says of bytes that are no message.
const UNREADABLE: &str = "failed to decode Protobuf message";

/// Whether these words came with bytes that are no message.
pub(crate) fn is_unreadable(status: &Status) -> bool {
    let bare = status.code() == Code::Internal && status.details().is_empty();
    bare && status.message().starts_with(UNREADABLE)
}

fn unreadable(status: &Status) -> Status {
    let why = status.message().trim_start_matches(UNREADABLE);
    let words = format!("the message cannot be read{why}; send what the protos describe");
    to_status(&Refusal::invalid("(message)", words).with_reason("MESSAGE_UNREADABLE"))
}

/// What the caller is told when the ledger's answer was too large for the ledger to send, or for this gateway to read.
pub(crate) fn of_the_ledger(status: &Status) -> Option<Status> {
    TooLarge::of(status).map(|message| message.answer())
}

/// Looks at what this gateway answers.
#[derive(Clone)]
pub(crate) struct Oversize {
    answers: Counter,
}

impl Oversize {
    pub(crate) fn new(metrics: &Registry) -> Self {
        let help = "Answers that were too large to be sent";
        Self {
            answers: metrics.counter("oversized_answers", help),
        }
    }

    /// What the caller is told in place of a status, where it tells of a message beyond a limit.
    pub(crate) fn refusal(&self, method: &str, status: &Status) -> Option<Status> {
        let told = TooLarge::of(status).map(|message| match message.is_read {
            true => message.request(),
            false => message.answer(),
        });
        let told = told.or_else(|| is_unreadable(status).then(|| unreadable(status)));
        let last = told.as_ref().unwrap_or(status);
        if last.code() == Code::Internal && from_status(last).reason == ANSWER_TOO_LARGE {
            self.answers.inc();
            tracing::error!(
                method,
                message = last.message(),
                "an answer could not be sent"
            );
        }
        told
    }

    /// The same of a status that comes after the head, as that of an answer that cannot be encoded does.
    pub(crate) fn replace(&self, method: &str, trailers: &mut HeaderMap) {
        let told =
            Status::from_header_map(trailers).and_then(|status| self.refusal(method, &status));
        if let Some(told) = told {
            trailers.clear();
            if let Err(error) = told.add_header(trailers) {
                tracing::error!(%error, "a refusal could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    fn too_large(way: &str) -> Status {
        Status::out_of_range(format!(
            "Error, {way} message length too large: found 5000000 bytes, the limit is: 4194304 bytes"
        ))
    }

    #[test]
    fn the_refusal_of_a_request_tells_the_size_the_limit_and_the_remedy() {
        let oversize = Oversize::new(&Registry::new("test"));
        let refused = oversize.refusal("m", &too_large("decoded")).unwrap();
        let refused = from_status(&refused);
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "MESSAGE_TOO_LARGE")
        );
        let words = "5000000 bytes, the limit is 4194304; send smaller pages";
        assert!(refused.message.contains(words), "{}", refused.message);
        assert!(
            oversize
                .refusal("m", &Status::out_of_range("page_token"))
                .is_none()
        );
        assert_eq!(oversize.answers.get(), 0);
    }

    #[test]
    fn bytes_that_are_no_message_are_the_callers_mistake() {
        let oversize = Oversize::new(&Registry::new("test"));
        let words = "failed to decode Protobuf message: invalid varint";
        let refused = oversize.refusal("m", &Status::internal(words)).unwrap();
        let refused = from_status(&refused);
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::InvalidArgument, "MESSAGE_UNREADABLE")
        );
        assert!(refused.message.contains("cannot be read: invalid varint"));
        // What the system itself has to say stays what it is.
        let own = to_status(&Refusal::internal());
        assert!(oversize.refusal("m", &own).is_none());
    }

    #[test]
    fn an_answer_that_cannot_be_sent_is_no_fault_of_the_caller_and_is_counted_once() {
        let oversize = Oversize::new(&Registry::new("test"));
        let made_here = oversize.refusal("m", &too_large("encoded")).unwrap();
        for way in ["encoded", "decoded"] {
            let of_the_ledger = of_the_ledger(&too_large(way)).unwrap();
            assert!(oversize.refusal("m", &of_the_ledger).is_none());
            for told in [&made_here, &of_the_ledger] {
                let told = from_status(told);
                assert_eq!(
                    (told.code, told.reason.as_str()),
                    (Code::Internal, "ANSWER_TOO_LARGE")
                );
                for words in [
                    "5000000 bytes",
                    "4194304",
                    "may have been done",
                    "a smaller page",
                ] {
                    assert!(told.message.contains(words), "{}", told.message);
                }
                assert_eq!(told.metadata["bytes"], "5000000");
            }
        }
        assert_eq!(oversize.answers.get(), 3);
    }

    #[test]
    fn a_status_after_the_head_is_replaced_and_any_other_left() {
        let oversize = Oversize::new(&Registry::new("test"));
        let mut trailers = HeaderMap::new();
        too_large("encoded").add_header(&mut trailers).unwrap();
        oversize.replace("m", &mut trailers);
        let told = Status::from_header_map(&trailers).unwrap();
        assert_eq!(from_status(&told).reason, "ANSWER_TOO_LARGE");
        assert_eq!(trailers.get_all("grpc-status").iter().count(), 1);

        let mut trailers = HeaderMap::new();
        Status::not_found("no").add_header(&mut trailers).unwrap();
        let before = trailers.clone();
        oversize.replace("m", &mut trailers);
        assert_eq!(trailers, before);
    }
}
