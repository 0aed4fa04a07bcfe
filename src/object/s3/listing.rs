//! A page of a listing, decoded by ourselves.

use aws_sdk_s3::types::{EncodingType, Object};

use super::Bucket;
use crate::clock::Timestamp;
use crate::object::{Listed, ObjectError, ObjectKey, Page};

pub(super) async fn page(bucket: &Bucket, prefix: &str, from: Option<&str>) -> Result<Page, ObjectError> {
    let request = bucket
        .client
        .list_objects_v2()
        .bucket(&bucket.name)
        .prefix(format!("{}{prefix}", bucket.prefix))
        .encoding_type(EncodingType::Url)
        .set_continuation_token(from.map(str::to_owned));
    let answer = request.send().await.map_err(|e| bucket.refused("list", prefix, e))?;
    let wrong = |words: &str| ObjectError::Corrupt(format!("list `{}/{prefix}`: {words}", bucket.place()));
    let encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let mut objects = Vec::with_capacity(answer.contents().len());
    for object in answer.contents() {
        let Some(key) = key_of(bucket, object, encoded) else { continue };
        if !key.as_str().starts_with(prefix) {
            return Err(wrong("the server lists what does not begin so"));
        }
        let (size, modified) = (object.size().and_then(|n| u64::try_from(n).ok()), object.last_modified());
        let (Some(bytes), Some(modified)) = (size, modified.and_then(|at| at.to_millis().ok())) else {
            return Err(wrong("the server does not say how long an object is and from when"));
        };
        objects.push(Listed { key, bytes, modified: Timestamp::from_millis(modified) });
    }
    if !objects.is_sorted_by(|a, b| a.key < b.key) {
        return Err(wrong("the server does not list keys in their order"));
    }
    let next = match (answer.is_truncated().unwrap_or(false), answer.next_continuation_token) {
        (false, _) => None,
        // The same page for ever, otherwise.
        (true, next) if next.is_none() || next.as_deref() == from => {
            return Err(wrong("the server says that there is more, and not where"));
        }
        (true, next) => next,
    };
    Ok(Page { objects, next })
}

/// The key of `object` below our prefix, if it is one of ours.
fn key_of(bucket: &Bucket, object: &Object, encoded: bool) -> Option<ObjectKey> {
    let key = object.key()?;
    let key = if encoded { decoded(key)? } else { key.to_owned() };
    ObjectKey::parse(key.strip_prefix(&bucket.prefix)?)
}

/// Percent-decoded, with `+` for a space as AWS writes it; nothing for what is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        // Checked, because `from_str_radix` takes a sign for a digit.
        let digits = behind.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_listings_are_decoded() {
        for (encoded, key) in [
            ("a/b-c_D.9", Some("a/b-c_D.9")),
            ("a%2Fb%01+%2B", Some("a/b\u{1} +")),
            ("%C3%BC", Some("ü")),
            ("100%", Some("100%")),
            ("%zz%2", Some("%zz%2")),
            ("%+1", Some("% 1")),
            ("%ff", None),
        ] {
            assert_eq!(decoded(encoded).as_deref(), key, "{encoded}");
        }
    }
}
