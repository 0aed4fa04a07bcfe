//! What a server answers, named by what the caller may do next.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::object::ObjectError;

/// The most of a server's words that is shown.
const MOST_WORDS: usize = 300;

/// The status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// The server's name for the error, if it gave one.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// `request` is what was asked, of whom.
pub(super) fn named<E>(request: &str, error: &SdkError<E>) -> ObjectError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let words = |what: &str| format!("{request}: {what}");
    match error {
        SdkError::ServiceError(_) => {
            let status = status(error).unwrap_or_default();
            let code = code(error).unwrap_or_default();
            let message = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
            answered(request, status, code, message)
        }
        SdkError::TimeoutError(_) => ObjectError::Transient(words("no answer in time")),
        SdkError::DispatchFailure(_) if distrusts(error) => ObjectError::Denied(words(&chain(error))),
        SdkError::DispatchFailure(_) => ObjectError::Transient(words(&chain(error))),
        // An answer that cannot be read: from a proxy, broken off, or of no S3 server.
        SdkError::ResponseError(answer) => match answer.raw().status().as_u16() {
            500.. => ObjectError::Transient(words(&chain(error))),
            _ if broke_off(error) => ObjectError::Transient(words(&chain(error))),
            _ => ObjectError::Corrupt(words(&chain(error))),
        },
        // The request could not even be made: an endpoint or a region that is none.
        _ => ObjectError::Denied(words(&chain(error))),
    }
}

fn answered(request: &str, status: u16, code: &str, message: &str) -> ObjectError {
    let words = match (code, message) {
        ("", "") => format!("{request}: {status}"),
        (code, "") => format!("{request}: {status} {}", shown(code)),
        (code, message) => format!("{request}: {status} {}: {}", shown(code), shown(message)),
    };
    match (status, code) {
        // Here something of the server's own went wrong, whatever its status is: AWS answers 200 and then fails, too.
        (_, "InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout") => ObjectError::Transient(words),
        // The bytes were damaged on their way: another try sends them again.
        (_, "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody") => {
            ObjectError::Transient(words)
        }
        (_, "NoSuchBucket") => ObjectError::Denied(words),
        (404, _) => ObjectError::Missing(words),
        // AWS: another writer is at the same key just now.
        (409, _) | (408 | 425 | 429, _) => ObjectError::Transient(words),
        (412 | 416, _) | (_, "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall") => ObjectError::Corrupt(words),
        // What the server cannot do at all, it cannot do later either.
        (501, _) => ObjectError::Denied(words),
        (500.., _) => ObjectError::Transient(words),
        (200..300, _) => ObjectError::Corrupt(words),
        // Rights, credentials, the clock, the region, the bucket's place: somebody has to change something.
        _ => ObjectError::Denied(words),
    }
}

/// Whether the server's certificate is not trusted: waiting does not help.
fn distrusts(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// Whether the connection ended within an answer.
fn broke_off(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.is::<io::Error>() || cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
    })
}

/// `error` and what it comes from. What an `io::Error` carries is not its source, but its source's: so it is looked into.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&'a (dyn Error + 'static)| {
        let cause: &'a (dyn Error + 'static) = *cause;
        let carried = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        carried.map(|inner| inner as &(dyn Error + 'static)).or_else(|| cause.source())
    })
}

/// The words of an error and of what it comes from, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in causes(error) {
        let next = cause.to_string();
        if !words.iter().any(|before| before.contains(&next)) {
            words.push(next);
        }
    }
    shown(&words.join(": "))
}

/// A server's words on one line, and not too many.
fn shown(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_named_by_what_to_do_next() {
        let kind = |status, code| match answered("get `s3://b/k`", status, code, "words") {
            ObjectError::Missing(_) => "missing",
            ObjectError::Exists(_) => "exists",
            ObjectError::Denied(_) => "denied",
            ObjectError::Transient(_) => "transient",
            ObjectError::Corrupt(_) => "corrupt",
        };
        for (status, code, expected) in [
            (404, "NoSuchKey", "missing"),
            (404, "", "missing"),
            (404, "NoSuchUpload", "missing"),
            (404, "NoSuchBucket", "denied"),
            (403, "AccessDenied", "denied"),
            (403, "RequestTimeTooSkewed", "denied"),
            (401, "", "denied"),
            (400, "AuthorizationHeaderMalformed", "denied"),
            (400, "ExpiredToken", "denied"),
            (301, "PermanentRedirect", "denied"),
            (501, "NotImplemented", "denied"),
            (503, "SlowDown", "transient"),
            (500, "", "transient"),
            (502, "", "transient"),
            (429, "TooManyRequests", "transient"),
            (400, "RequestTimeout", "transient"),
            (400, "BadDigest", "transient"),
            (409, "ConditionalRequestConflict", "transient"),
            (200, "InternalError", "transient"),
            (412, "PreconditionFailed", "corrupt"),
            (416, "InvalidRange", "corrupt"),
            (400, "InvalidPart", "corrupt"),
            (200, "", "corrupt"),
        ] {
            assert_eq!(kind(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_servers_words_stay_on_one_line() {
        let words = answered("put `s3://b/k`", 403, "AccessDenied", &format!("no\n{}", "x".repeat(1000))).to_string();
        assert!(words.starts_with("refused: put `s3://b/k`: 403 AccessDenied: no xxx"), "{words}");
        assert!(words.len() < 400 && !words.contains('\n'));
    }
}
