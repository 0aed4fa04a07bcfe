//! What lies beside the backups for whoever has nothing but the store: which layout it is, how to restore by hand, and the sums of all objects.

use bytes::Bytes;

use super::super::by_hand;
use super::super::catalog::{Catalog, check_format};
use super::super::claim::create_or_same;
use super::super::layout::{FORMAT, format_key, sums_key};
use super::ShipError;
use crate::object::{ObjectError, ObjectStore, get_small};

/// Longer than any of these papers.
const MOST_BYTES: u64 = 1 << 20;

/// Sees to it that the store says which layout it has, before there is anything of it.
pub(super) async fn keep_format(store: &dyn ObjectStore) -> Result<(), ShipError> {
    let bytes = Bytes::from(format!("{{\"format\": {FORMAT}}}\n"));
    if create_or_same(store, &format_key(), bytes).await? {
        return Ok(());
    }
    // Somebody else's spelling of the same, or a layout that this version must not write to.
    Ok(check_format(store).await?)
}

/// Sees to it that the guide and the script are those of this version.
pub(super) async fn keep_guide(store: &dyn ObjectStore) -> Result<(), ShipError> {
    for (key, bytes) in by_hand::objects() {
        match get_small(store, &key, MOST_BYTES).await {
            Ok(there) if there == bytes => {}
            Ok(_) | Err(ObjectError::Missing(_) | ObjectError::Corrupt(_)) => store.put(&key, bytes).await?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Writes down the sums of all that manifests name.
pub(in crate::backup) async fn keep_sums(store: &dyn ObjectStore, catalog: &Catalog) -> Result<(), ShipError> {
    Ok(store.put(&sums_key(), by_hand::sums(catalog)).await?)
}
