//! A bucket, over the S3 protocol of whoever speaks it: AWS, Garage, Ceph, and others that know less of it than they say.
//!
//! - Bodies go up from memory. A streamed body over plain HTTP is signed chunk by chunk, which Garage and Ceph refuse, and which rclone stores with the
//!   signatures in it.
//! - `create` is a PUT with `If-None-Match: *`. Garage, rclone and s3rver ignore it without a word; [`super::probe::honours_create`] finds out.
//! - A download of a known writing compares the answer's ETag instead of sending `If-Match`: rclone ignores that header, an old Ceph knows only ETags without
//!   quotes in it, and what counts is the bytes that came.
//! - Listings ask for URL encoding and are decoded here: without it, one foreign key with a control character makes a whole page unreadable.
//! - Deletes go one by one. DeleteObjects reports its failures in a 200, and needs a checksum that some servers do not know.
//! - Nothing is asked for that servers are known to drop silently: no tags, no locks, no lifecycle rules.
//!
//! The SDK tries twice (a connection that had been closed meanwhile, a clock that it then corrects by the server's); whoever wants more patience asks
//! [`super::patient`]. Never its adaptive mode, where one 503 cost 20 s.

mod client;
mod errors;
mod listing;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use futures_util::stream;

use super::{Download, ObjectError, ObjectKey, ObjectStore, Page, Part, Upload, check_note};
use crate::secret::{Secret, redacted_url};
use crate::task::Pending;

/// How to talk to a bucket: `[backup.s3]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `https://host:port`; nothing for AWS, which is found by its region.
    pub endpoint: Option<String>,
    /// The region, which is part of each request's signature: a server that checks it refuses another one.
    pub region: String,
    /// Whether the bucket stands in the path (`https://host/bucket/key`) instead of the host's name. Most servers but AWS want that.
    pub path_style: bool,
    /// Who asks.
    pub access_key_id: String,
    /// What the requests are signed with; never sent.
    pub secret_access_key: Secret,
    /// Further authorities in PEM to trust beside the system's, for a server with a private one.
    pub ca_file: Option<PathBuf>,
    /// Which checksums go along beside the signature, which holds a SHA-256 of the body anyway.
    pub checksum: Checksum,
}

/// `backup.checksum`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Only where the protocol wants one. The signature's SHA-256 is checked by every server that checks signatures.
    Required,
    /// A CRC32 per body and part, which AWS keeps and shows.
    Supported,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: false,
            access_key_id: String::new(),
            secret_access_key: Secret::new(""),
            ca_file: None,
            checksum: Checksum::Required,
        }
    }
}

/// A bucket, or the part of it below a prefix.
#[derive(Clone)]
pub struct S3(Arc<Bucket>);

/// What requests are made of.
struct Bucket {
    client: Client,
    name: String,
    /// Empty, or ends with `/`.
    prefix: String,
    checksum: Checksum,
    /// For messages.
    server: String,
}

/// The metadata that holds a note: the header `x-amz-meta-atlas-note`.
const NOTE: &str = "atlas-note";

impl S3 {
    /// The bucket `bucket` below `prefix`. Nothing is asked yet; the error is about the settings.
    pub fn open(settings: &Settings, bucket: &str, prefix: &str) -> Result<Self, String> {
        let client = client::client(settings)?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let server = settings.endpoint.as_deref().map_or("AWS".to_owned(), redacted_url);
        Ok(Self(Arc::new(Bucket { client, name: bucket.to_owned(), prefix, checksum: settings.checksum, server })))
    }

    /// Whether the server refuses a body whose checksum is wrong, and so would notice one that was damaged on its way. Stores nothing if it does.
    pub async fn refuses_damaged(&self, key: &ObjectKey) -> Result<bool, ObjectError> {
        // The CRC32 of something else.
        let put = self.0.put(key, Bytes::from_static(b"damaged on the way")).checksum_crc32("AAAAAA==");
        match put.send().await {
            Ok(_) => Ok(false),
            Err(e) if errors::code(&e) == Some("BadDigest") || errors::status(&e) == Some(400) => Ok(true),
            Err(e) => Err(self.0.refused("put", key.as_str(), e)),
        }
    }
}

impl Bucket {
    fn path(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn place(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    fn put(&self, key: &ObjectKey, bytes: Bytes) -> PutObjectFluentBuilder {
        self.client.put_object().bucket(&self.name).key(self.path(key)).body(in_memory(bytes))
    }

    /// Sends `put`, of a body of `length` bytes, if there is no such object.
    async fn create(&self, put: PutObjectFluentBuilder, key: &ObjectKey, length: usize) -> Result<(), ObjectError> {
        let put = put.if_none_match("*").customize().config_override(client::limits(attempt(length)));
        put.send().await.map(drop).map_err(|e| match errors::status(&e) {
            Some(412) => ObjectError::Exists(format!("`{}/{key}`", self.place())),
            _ => self.refused("create", key.as_str(), e),
        })
    }

    /// The error for what the server answered to `op` on `key`.
    fn refused<E>(&self, op: &str, key: &str, error: aws_sdk_s3::error::SdkError<E>) -> ObjectError
    where
        E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + Send + Sync + 'static,
    {
        errors::named(&format!("{op} `s3://{}/{}{key}` at {}", self.name, self.prefix, self.server), &error)
    }

    async fn get(&self, key: &ObjectKey, part: Part) -> Result<Download, ObjectError> {
        let whole = part.from == 0 && part.to.is_none();
        if part.to.is_some_and(|to| to <= part.from) {
            return Err(ObjectError::Corrupt(format!("get `{key}`: no bytes from {} to {:?}", part.from, part.to)));
        }
        let range = match part.to {
            Some(to) => format!("bytes={}-{}", part.from, to - 1),
            None => format!("bytes={}-", part.from),
        };
        let request = self.client.get_object().bucket(&self.name).key(self.path(key));
        let answer = request
            .set_range((!whole).then_some(range))
            .send()
            .await
            .map_err(|e| self.refused("get", key.as_str(), e))?;
        let wrong = |words: String| ObjectError::Corrupt(format!("get `{}/{key}`: {words}", self.place()));
        let (from, bytes) = match (whole, &answer.content_range) {
            (true, _) => (0, answer.content_length.and_then(|n| u64::try_from(n).ok())),
            (false, Some(range)) => content_range(range).map_or((u64::MAX, None), |(from, of)| (from, Some(of))),
            (false, None) => {
                return Err(wrong("the server gives the whole object where a part was asked for".to_owned()));
            }
        };
        let bytes = bytes.ok_or_else(|| wrong("the answer does not say how long the object is".to_owned()))?;
        if from != part.from {
            return Err(wrong(format!("bytes from {from} on where {} was asked for", part.from)));
        }
        // Ceph 16 gives an empty one for some.
        let version = answer.e_tag.filter(|tag| !tag.trim_matches('"').is_empty());
        if part.version.is_some() && part.version != version {
            return Err(wrong("it was replaced meanwhile".to_owned()));
        }
        let note = answer.metadata.and_then(|mut metadata| metadata.remove(NOTE));
        let place = format!("{}/{key}", self.place());
        let body = stream::try_unfold((answer.body, place, part.from), |(mut body, place, at)| async move {
            match body.next().await {
                Some(Ok(chunk)) => {
                    let at = at + chunk.len() as u64;
                    Ok(Some((chunk, (body, place, at))))
                }
                Some(Err(e)) => {
                    Err(ObjectError::Transient(format!("get `{place}`: broke at byte {at}: {}", errors::chain(&e))))
                }
                None => Ok(None),
            }
        });
        Ok(Download { bytes, version, note, body: Box::pin(body) })
    }
}

/// The first byte and the object's length of `bytes 5-9/100`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, of) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, of.parse().ok()?))
}

/// A body that the SDK can send again, whose checksum and length are known before it is sent.
fn in_memory(bytes: Bytes) -> ByteStream {
    ByteStream::new(SdkBody::from(bytes))
}

/// How long one try of a request may take that carries `bytes`: 30 s, above the 20 s for which Garage stalls when one of its nodes is frozen, and
/// as long as the bytes take at 64 kB/s.
fn attempt(bytes: usize) -> Duration {
    Duration::from_secs(30 + bytes as u64 / 65_536)
}

impl ObjectStore for S3 {
    fn place(&self) -> String {
        self.0.place()
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let limits = client::limits(attempt(bytes.len()));
            let put = self.0.put(key, bytes).customize().config_override(limits);
            put.send().await.map(drop).map_err(|e| self.0.refused("put", key.as_str(), e))
        })
    }

    fn create<'a>(&'a self, key: &'a ObjectKey, bytes: Bytes) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(self.0.create(self.0.put(key, bytes.clone()), key, bytes.len()))
    }

    fn create_noted<'a>(
        &'a self,
        key: &'a ObjectKey,
        bytes: Bytes,
        note: &'a str,
    ) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            check_note(note)?;
            self.0.create(self.0.put(key, bytes.clone()).metadata(NOTE, note), key, bytes.len()).await
        })
    }

    fn upload<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<Box<dyn Upload>, ObjectError>> {
        Box::pin(upload::begin(Arc::clone(&self.0), key))
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, part: Part) -> Pending<'a, Result<Download, ObjectError>> {
        Box::pin(self.0.get(key, part))
    }

    fn list<'a>(&'a self, prefix: &'a str, from: Option<&'a str>) -> Pending<'a, Result<Page, ObjectError>> {
        Box::pin(listing::page(&self.0, prefix, from))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Pending<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let delete = self.0.client.delete_object().bucket(&self.0.name).key(self.0.path(key)).send().await;
            match delete.map_err(|e| self.0.refused("delete", key.as_str(), e)) {
                Err(ObjectError::Missing(_)) | Ok(_) => Ok(()),
                Err(e) => Err(e),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers_are_read() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 100)));
        for bad in ["", "bytes */100", "bytes 5-9/*", "5-9/100", "bytes 5/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn settings_do_not_show_the_secret() {
        let settings = Settings { secret_access_key: Secret::new("canary"), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("canary"));
    }
}
