//! An answer's body: what its headers promise, and its bytes within limits.
//!
//! The limit holds twice, for what is received and for what it decompresses to, and it is checked while the bytes come: a gzip bomb (E-3) costs at most
//! the limit in memory, whatever it claims to be.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use super::{CollectError, Syntax};

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

/// The syntax that the Content-Type promises. As in Prometheus 3, an answer without one, or with any other, is refused: an error page
/// with status 200 must not pass as metrics (E-1).
pub(super) fn syntax(headers: &HeaderMap) -> Result<Syntax, String> {
    let value = headers.get(CONTENT_TYPE).ok_or("the answer has no Content-Type")?;
    // 100 characters: enough to recognise a type, not for a flood of the log.
    let text: String = String::from_utf8_lossy(value.as_bytes()).chars().take(100).collect();
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or("").to_ascii_lowercase();
    let version = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("version"))
        .map(|(_, value)| value.trim().trim_matches('"'));
    match (media_type.as_str(), version) {
        ("text/plain", None | Some("0.0.4" | "1.0.0")) => Ok(Syntax::Text),
        ("application/openmetrics-text", None | Some("0.0.1" | "1.0.0")) => Ok(Syntax::OpenMetrics),
        _ => Err(format!("Content-Type `{}` is neither Prometheus text nor OpenMetrics", text.escape_debug())),
    }
}

/// The encoding that the headers name.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, String> {
    let value = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |v| v.as_bytes());
    if value.eq_ignore_ascii_case(b"identity") || value.is_empty() {
        Ok(Encoding::Plain)
    } else if value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip") {
        Ok(Encoding::Gzip)
    } else {
        let named: String = String::from_utf8_lossy(value).chars().take(100).collect();
        Err(format!("Content-Encoding `{}` was not asked for", named.escape_debug()))
    }
}

/// Receives and decodes `body`; at most `limit` bytes of either form.
pub(super) async fn read<B>(mut body: B, encoding: Encoding, limit: usize) -> Result<Vec<u8>, CollectError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let mut sink = Sink::new(encoding, limit);
    let mut received = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| CollectError::Malformed(format!("the answer broke off: {e}")))?;
        // Trailers are not data.
        let Ok(data) = frame.into_data() else { continue };
        received = received.saturating_add(data.len());
        if received > limit {
            return Err(too_large(limit));
        }
        sink.write(&data)?;
    }
    sink.finish()
}

fn too_large(limit: usize) -> CollectError {
    CollectError::TooLarge(format!("more than {limit} bytes"))
}

enum Sink {
    Plain(Capped),
    Gzip(Box<MultiGzDecoder<Capped>>),
}

impl Sink {
    fn new(encoding: Encoding, limit: usize) -> Self {
        let capped = Capped { bytes: Vec::new(), limit, full: false };
        match encoding {
            Encoding::Plain => Self::Plain(capped),
            Encoding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(capped))),
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), CollectError> {
        let written = match self {
            Self::Plain(capped) => capped.write_all(data),
            Self::Gzip(decoder) => decoder.write_all(data),
        };
        written.map_err(|e| self.failure(&e))
    }

    fn finish(mut self) -> Result<Vec<u8>, CollectError> {
        if let Self::Gzip(decoder) = &mut self
            && let Err(error) = decoder.try_finish()
        {
            return Err(self.failure(&error));
        }
        Ok(std::mem::take(&mut self.capped().bytes))
    }

    fn capped(&mut self) -> &mut Capped {
        match self {
            Self::Plain(capped) => capped,
            Self::Gzip(decoder) => decoder.get_mut(),
        }
    }

    fn failure(&mut self, error: &io::Error) -> CollectError {
        let capped = self.capped();
        if capped.full {
            return too_large(capped.limit);
        }
        CollectError::Malformed(format!("the gzip stream is damaged or cut: {error}"))
    }
}

/// Bytes up to a limit; more are refused before they take memory.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() > self.limit - self.bytes.len() {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body_util::Full;
    use hyper::header::HeaderValue;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    async fn read_all(bytes: Vec<u8>, encoding: Encoding, limit: usize) -> Result<Vec<u8>, CollectError> {
        read(Full::new(Bytes::from(bytes)), encoding, limit).await
    }

    #[tokio::test]
    async fn a_body_is_decoded_up_to_its_limit() {
        let plain = b"a 1\n".repeat(100);
        for limit in [400, 401] {
            assert_eq!(read_all(plain.clone(), Encoding::Plain, limit).await, Ok(plain.clone()));
            assert_eq!(read_all(gzip(&plain), Encoding::Gzip, limit).await, Ok(plain.clone()));
        }
        let two = [gzip(&plain[..200]), gzip(&plain[200..])].concat();
        assert_eq!(read_all(two, Encoding::Gzip, 400).await, Ok(plain.clone()));
        assert_eq!(read_all(plain.clone(), Encoding::Plain, 399).await, Err(too_large(399)));
        assert_eq!(read_all(gzip(&plain), Encoding::Gzip, 399).await, Err(too_large(399)));
        assert_eq!(read_all(gzip(&plain), Encoding::Gzip, 10).await, Err(too_large(10)));
    }

    /// E-3: a thousandfold bomb is refused with no more memory than the limit.
    #[tokio::test]
    async fn e3_a_gzip_bomb_ends_at_the_limit() {
        let bomb = gzip(&vec![b'x'; 10 << 20]);
        assert!(bomb.len() < 20_000);
        let mut sink = Sink::new(Encoding::Gzip, 100_000);
        assert_eq!(sink.write(&bomb), Err(too_large(100_000)));
        assert!(sink.capped().bytes.capacity() <= 200_000);
    }

    #[tokio::test]
    async fn damaged_and_cut_gzip_is_malformed() {
        let whole = gzip(b"a 1\n");
        let mut damaged = whole.clone();
        damaged[12] ^= 0xff;
        let cut = whole[..whole.len() - 1].to_vec();
        for bytes in [damaged, cut, b"a 1\n".to_vec(), Vec::new(), whole[..5].to_vec()] {
            match read_all(bytes.clone(), Encoding::Gzip, 1000).await {
                Err(CollectError::Malformed(why)) => assert!(why.contains("gzip"), "{why}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    fn headers(name: hyper::header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    /// E-1: an HTML page with status 200 is no exposition.
    #[test]
    fn e1_only_expositions_pass() {
        for (value, expected) in [
            ("text/plain", Some(Syntax::Text)),
            ("text/plain; charset=utf-8", Some(Syntax::Text)),
            ("Text/Plain;version=0.0.4;charset=utf-8", Some(Syntax::Text)),
            ("text/plain; version=\"1.0.0\"; escaping=allow-utf-8", Some(Syntax::Text)),
            ("text/plain; version=2.0.0", None),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Some(Syntax::OpenMetrics)),
            ("application/openmetrics-text;version=0.0.1", Some(Syntax::OpenMetrics)),
            ("application/openmetrics-text; version=2.0.0", None),
            ("text/html; charset=utf-8", None),
            ("application/json", None),
            ("", None),
        ] {
            let found = syntax(&headers(CONTENT_TYPE, value));
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{value}");
            if let Err(why) = found {
                assert!(why.contains(&format!("`{value}`")), "{why}");
            }
        }
        assert!(syntax(&HeaderMap::new()).is_err());
    }

    #[test]
    fn only_encodings_that_were_asked_for_pass() {
        assert_eq!(encoding(&HeaderMap::new()), Ok(Encoding::Plain));
        assert_eq!(encoding(&headers(CONTENT_ENCODING, "GZIP")), Ok(Encoding::Gzip));
        assert_eq!(encoding(&headers(CONTENT_ENCODING, "identity")), Ok(Encoding::Plain));
        assert!(encoding(&headers(CONTENT_ENCODING, "zstd")).is_err());
    }
}
