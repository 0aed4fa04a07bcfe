//! A multipart upload.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::{Bucket, Checksum, attempt, client, errors, in_memory};
use crate::object::{ObjectError, ObjectKey, Upload};
use crate::task::Pending;

struct Multipart {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    id: String,
    /// What the server said of each part, and how long it is.
    stored: Mutex<BTreeMap<u32, (CompletedPart, usize)>>,
}

/// The checksum to declare. It is declared for the upload and for each part, and repeated at the end, or not at all: AWS refuses an end that does not
/// repeat what was declared, Garage one that repeats what was not.
fn declared(bucket: &Bucket) -> Option<ChecksumAlgorithm> {
    (bucket.checksum == Checksum::Supported).then_some(ChecksumAlgorithm::Crc32)
}

pub(super) async fn begin(bucket: Arc<Bucket>, key: &ObjectKey) -> Result<Box<dyn Upload>, ObjectError> {
    let request = bucket.client.create_multipart_upload().bucket(&bucket.name).key(bucket.path(key));
    let request = request.set_checksum_algorithm(declared(&bucket));
    let answer = request.send().await.map_err(|e| bucket.refused("begin", key.as_str(), e))?;
    let Some(id) = answer.upload_id else {
        return Err(ObjectError::Corrupt(format!("begin `{}/{key}`: the server gives no number", bucket.place())));
    };
    Ok(Box::new(Multipart { bucket, key: key.clone(), id, stored: Mutex::default() }))
}

impl Upload for Multipart {
    fn part(&self, number: u32, bytes: Bytes) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.store(number, bytes))
    }

    fn finish(&self, parts: u32) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(self.complete(parts))
    }

    fn abort(&self) -> Pending<'_, Result<(), ObjectError>> {
        Box::pin(async move {
            let bucket = &self.bucket;
            let request = bucket.client.abort_multipart_upload().bucket(&bucket.name).key(bucket.path(&self.key));
            match request.upload_id(&self.id).send().await.map_err(|e| bucket.refused("abort", self.key.as_str(), e)) {
                Err(ObjectError::Missing(_)) | Ok(_) => Ok(()),
                Err(e) => Err(e),
            }
        })
    }
}

impl Multipart {
    async fn store(&self, number: u32, bytes: Bytes) -> Result<(), ObjectError> {
        let (bucket, length) = (&self.bucket, bytes.len());
        let index = i32::try_from(number).unwrap_or(i32::MAX);
        let request = bucket.client.upload_part().bucket(&bucket.name).key(bucket.path(&self.key)).upload_id(&self.id);
        let request = request.part_number(index).set_checksum_algorithm(declared(bucket)).body(in_memory(bytes));
        let answer = request.customize().config_override(client::limits(attempt(length))).send().await;
        let answer = answer.map_err(|e| bucket.refused("store a part of", self.key.as_str(), e))?;
        let part = CompletedPart::builder()
            .part_number(index)
            .set_e_tag(answer.e_tag)
            .set_checksum_crc32(answer.checksum_crc32.filter(|_| bucket.checksum == Checksum::Supported))
            .build();
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (part, length));
        Ok(())
    }

    async fn complete(&self, parts: u32) -> Result<(), ObjectError> {
        let (list, bytes) = self.list(parts)?;
        let bucket = &self.bucket;
        let request = bucket.client.complete_multipart_upload().bucket(&bucket.name).key(bucket.path(&self.key));
        let list = CompletedMultipartUpload::builder().set_parts(Some(list)).build();
        // The server may have to copy the parts together: as long as it may take to store them.
        let limits = client::limits(attempt(super::super::PART_BYTES));
        let request = request.upload_id(&self.id).multipart_upload(list).customize().config_override(limits);
        match request.send().await {
            Ok(_) => Ok(()),
            // An earlier try whose answer was lost. Whoever uploads compares sums anyway; the length rules out that something else took the key.
            Err(e) if errors::code(&e) == Some("NoSuchUpload") && self.length().await == Some(bytes) => Ok(()),
            Err(e) => Err(bucket.refused("finish", self.key.as_str(), e)),
        }
    }

    /// Parts 1 to `parts`, and how long they are together.
    fn list(&self, parts: u32) -> Result<(Vec<CompletedPart>, u64), ObjectError> {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut list, mut bytes) = (Vec::new(), 0);
        for number in 1..=parts.max(1) {
            let Some((part, length)) = stored.get(&number) else {
                return Err(ObjectError::Corrupt(format!("part {number} of `{}` was not stored", self.key)));
            };
            list.push(part.clone());
            bytes += *length as u64;
        }
        Ok((list, bytes))
    }

    /// How long the object is that has the key now.
    async fn length(&self) -> Option<u64> {
        let head = self.bucket.client.head_object().bucket(&self.bucket.name).key(self.bucket.path(&self.key));
        head.send().await.ok()?.content_length.and_then(|n| u64::try_from(n).ok())
    }
}
