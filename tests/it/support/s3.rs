//! An S3 server in this process: objects in memory, signatures checked, conditions kept, and a hook for faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use atlas_sidecar::object::{self, Destination};
use atlas_sidecar::secret::Secret;
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

/// A server with one empty bucket; gone when dropped. It has threads of its own: tests that are not async can use it too.
pub struct S3Server {
    /// `http://127.0.0.1:port`
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret: String,
    memory: Memory,
    runtime: Option<Runtime>,
}

/// Called before each request with the operation (`PutObject`) and the key or, for a listing, the prefix; an error is the server's answer.
type Hook = Box<dyn FnMut(&str, &str) -> Option<S3Error> + Send>;

#[derive(Clone)]
struct Kept {
    bytes: Bytes,
    etag: String,
    metadata: Option<Metadata>,
    at: std::time::SystemTime,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Kept>,
    uploads: BTreeMap<String, BTreeMap<i32, Bytes>>,
    begun: u64,
    requests: Vec<String>,
    ignores_conditions: bool,
    drops_metadata: bool,
    page: Option<usize>,
    hook: Option<Hook>,
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<State>>);

const BUCKET: &str = "backups";

impl S3Server {
    pub fn start() -> Self {
        let (access_key, secret) = ("AKIATESTKEY".to_owned(), "test-secret-canary".to_owned());
        let memory = Memory::default();
        let mut service = S3ServiceBuilder::new(memory.clone());
        service.set_auth(SimpleAuth::from_single(&*access_key, &*secret));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let handle = runtime.handle().clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let service = service.clone();
                handle
                    .spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
            }
        });
        let endpoint = format!("http://{address}");
        Self { endpoint, bucket: BUCKET.to_owned(), access_key, secret, memory, runtime: Some(runtime) }
    }

    /// What leads to this server's bucket, below `prefix`.
    pub fn settings(&self, prefix: &str) -> object::Settings {
        object::Settings {
            destination: Destination::S3 { bucket: self.bucket.clone(), prefix: prefix.to_owned() },
            s3: object::s3::Settings {
                endpoint: Some(self.endpoint.clone()),
                path_style: true,
                access_key_id: self.access_key.clone(),
                secret_access_key: Secret::new(&self.secret),
                ..Default::default()
            },
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.memory.0.lock().unwrap()
    }

    /// Asks `hook` before each request from now on. Not about this server itself: it is locked meanwhile.
    pub fn fault(&self, hook: impl FnMut(&str, &str) -> Option<S3Error> + Send + 'static) {
        self.state().hook = Some(Box::new(hook));
    }

    /// Answers the next `times` requests of `operation` (`PutObject`) with `error`.
    pub fn fail(&self, operation: &'static str, times: usize, error: fn() -> S3Error) {
        let mut left = times;
        self.fault(move |op, _| {
            let fails = op == operation && left > 0;
            left -= usize::from(fails);
            fails.then(error)
        });
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.state().hook = None;
    }

    /// Answers as Garage and rclone do: `If-None-Match` is not looked at.
    pub fn ignore_conditions(&self) {
        self.state().ignores_conditions = true;
    }

    /// Keeps no metadata, as rclone in front of some storages.
    pub fn drop_metadata(&self) {
        self.state().drops_metadata = true;
    }

    /// The metadata of `key`.
    pub fn metadata(&self, key: &str) -> BTreeMap<String, String> {
        let metadata = self.state().objects.get(key).and_then(|object| object.metadata.clone());
        metadata.unwrap_or_default().into_iter().collect()
    }

    /// Gives at most `objects` per page of a listing.
    pub fn page(&self, objects: usize) {
        self.state().page = Some(objects);
    }

    /// All keys, with the prefix.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// The bytes of `key`.
    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(key).map(|object| object.bytes.clone())
    }

    /// Stores `bytes`, as somebody else would.
    pub fn store(&self, key: &str, bytes: impl Into<Bytes>) {
        let object = Kept::new(bytes.into());
        self.state().objects.insert(key.to_owned(), object);
    }

    /// Puts other bytes in the place of those of `key`, whose metadata stay.
    pub fn alter(&self, key: &str, bytes: impl Into<Bytes>) {
        let mut state = self.state();
        let object = state.objects.get_mut(key).expect("there is such an object");
        *object = Kept { metadata: object.metadata.take(), ..Kept::new(bytes.into()) };
    }

    /// When `key` was stored.
    pub fn stored_at(&self, key: &str) -> Option<std::time::SystemTime> {
        self.state().objects.get(key).map(|object| object.at)
    }

    /// Removes `key`, as somebody else would.
    pub fn remove(&self, key: &str) {
        self.state().objects.remove(key);
    }

    /// The names of the operations that were asked for, in order.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How many uploads are neither finished nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: this may be within another runtime.
            runtime.shutdown_background();
        }
    }
}

impl Kept {
    fn new(bytes: Bytes) -> Self {
        let etag = Sha256::digest(&bytes).iter().take(16).map(|b| format!("{b:02x}")).collect();
        #[expect(clippy::disallowed_methods, reason = "a server's own clock")]
        Self { bytes, etag, metadata: None, at: std::time::SystemTime::now() }
    }

    fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }
}

fn ok<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

async fn body(blob: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(blob) = blob else { return Ok(Bytes::new()) };
    let chunks: Vec<Bytes> = blob.try_collect().await.map_err(|e| s3_error!(InternalError, "{e}"))?;
    Ok(chunks.concat().into())
}

/// The CRC32 of a body, where one was sent, must be right.
fn checked(bytes: &[u8], crc32: Option<&str>) -> S3Result<()> {
    use base64::Engine;
    let Some(sent) = crc32 else { return Ok(()) };
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    match base64::engine::general_purpose::STANDARD.encode(crc.sum().to_be_bytes()) == sent {
        true => Ok(()),
        false => Err(s3_error!(BadDigest)),
    }
}

impl Memory {
    /// Notes a request; an error is the hook's.
    fn asked(&self, operation: &str, bucket: &str, key: &str) -> S3Result<std::sync::MutexGuard<'_, State>> {
        let mut state = self.0.lock().unwrap();
        state.requests.push(operation.to_owned());
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        match state.hook.as_mut().and_then(|hook| hook(operation, key)) {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }
}

impl State {
    fn put(&mut self, key: &str, only_new: bool, bytes: Bytes, metadata: Option<Metadata>) -> S3Result<ETag> {
        if only_new && !self.ignores_conditions && self.objects.contains_key(key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let metadata = metadata.filter(|_| !self.drops_metadata);
        // 2 KB: what AWS has room for, names and values together.
        if metadata.iter().flatten().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 2048 {
            return Err(s3_error!(MetadataTooLarge));
        }
        let object = Kept { metadata, ..Kept::new(bytes) };
        let etag = object.etag();
        self.objects.insert(key.to_owned(), object);
        Ok(etag)
    }
}

#[async_trait::async_trait]
impl S3 for Memory {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        drop(self.asked("PutObject", &input.bucket, &input.key)?);
        let bytes = body(input.body).await?;
        checked(&bytes, input.checksum_crc32.as_deref())?;
        let only_new = input.if_none_match.as_ref().is_some_and(|condition| condition.is_any());
        let etag = self.0.lock().unwrap().put(&input.key, only_new, bytes, input.metadata)?;
        ok(PutObjectOutput { e_tag: Some(etag), ..Default::default() })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let object = {
            let state = self.asked("GetObject", &input.bucket, &input.key)?;
            state.objects.get(&*input.key).cloned().ok_or_else(|| s3_error!(NoSuchKey))?
        };
        let whole = object.bytes.len() as u64;
        let (bytes, content_range) = match input.range {
            None => (object.bytes.clone(), None),
            Some(range) => {
                let range = range.check(whole)?;
                let shown = format!("bytes {}-{}/{whole}", range.start, range.end - 1);
                (object.bytes.slice(range.start as usize..range.end as usize), Some(shown))
            }
        };
        let content_length = Some(bytes.len() as i64);
        let blob = StreamingBlob::wrap(stream::once(async { Ok::<_, std::io::Error>(bytes) }));
        let (e_tag, last_modified) = (Some(object.etag()), Some(object.at.into()));
        let body = Some(blob);
        let metadata = object.metadata;
        ok(GetObjectOutput {
            body,
            content_length,
            content_range,
            e_tag,
            last_modified,
            metadata,
            ..Default::default()
        })
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let state = self.asked("HeadObject", &input.bucket, &input.key)?;
        let object = state.objects.get(&*input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let (content_length, e_tag) = (Some(object.bytes.len() as i64), Some(object.etag()));
        let (last_modified, metadata) = (Some(object.at.into()), object.metadata.clone());
        ok(HeadObjectOutput { content_length, e_tag, last_modified, metadata, ..Default::default() })
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.asked("DeleteObject", &input.bucket, &input.key)?.objects.remove(&*input.key);
        ok(DeleteObjectOutput::default())
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let prefix = input.prefix.clone().map(|p| p.to_string()).unwrap_or_default();
        let state = self.asked("ListObjectsV2", &input.bucket, &prefix)?;
        let after = input.continuation_token.clone().unwrap_or_default();
        let most = state.page.unwrap_or(1000);
        let mut found = state
            .objects
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter(|(key, _)| **key > after);
        let contents: Vec<Object> = found.by_ref().take(most).map(|(key, object)| listed(key, object)).collect();
        let more = found.next().is_some();
        let last = contents.last().and_then(|object| object.key.clone()).map(|key| key.to_string());
        ok(ListObjectsV2Output {
            contents: Some(contents),
            is_truncated: Some(more),
            next_continuation_token: last.filter(|_| more),
            ..Default::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.asked("CreateMultipartUpload", &input.bucket, &input.key)?;
        state.begun += 1;
        let id = format!("upload-{}", state.begun);
        state.uploads.insert(id.clone(), BTreeMap::new());
        ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        drop(self.asked("UploadPart", &input.bucket, &input.key)?);
        let bytes = body(input.body).await?;
        checked(&bytes, input.checksum_crc32.as_deref())?;
        let mut state = self.0.lock().unwrap();
        let parts = state.uploads.get_mut(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let e_tag = Some(Kept::new(bytes.clone()).etag());
        parts.insert(input.part_number, bytes);
        ok(UploadPartOutput { e_tag, checksum_crc32: input.checksum_crc32, ..Default::default() })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.asked("CompleteMultipartUpload", &input.bucket, &input.key)?;
        let stored = state.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let wanted = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let mut whole = Vec::new();
        for (index, part) in wanted.iter().enumerate() {
            let bytes = stored.get(&part.part_number.unwrap_or(0)).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref() != Some(&Kept::new(bytes.clone()).etag()) {
                return Err(s3_error!(InvalidPart));
            }
            // 5 MiB: the least that S3 takes of all parts but the last.
            if index + 1 < wanted.len() && bytes.len() < 5 << 20 {
                return Err(s3_error!(EntityTooSmall));
            }
            whole.extend_from_slice(bytes);
        }
        let etag = state.put(&input.key, false, whole.into(), None)?;
        state.uploads.remove(&input.upload_id);
        let (bucket, key) = (Some(input.bucket), Some(input.key));
        ok(CompleteMultipartUploadOutput { bucket, key, e_tag: Some(etag), ..Default::default() })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        let mut state = self.asked("AbortMultipartUpload", &input.bucket, &input.key)?;
        state.uploads.remove(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        ok(AbortMultipartUploadOutput::default())
    }
}

fn listed(key: &str, object: &Kept) -> Object {
    Object {
        key: Some(key.to_owned()),
        size: Some(object.bytes.len() as i64),
        e_tag: Some(object.etag()),
        last_modified: Some(object.at.into()),
        ..Default::default()
    }
}
