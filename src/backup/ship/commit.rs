//! The commit: the manifest is created, and everybody is told.

use bytes::Bytes;
use tracing::{info, warn};

use super::super::catalog::Entry;
use super::super::claim::{self, Tip, create_or_same};
use super::super::layout::manifest_key;
use super::super::manifest::{self, Sum};
use super::super::{Adopted, Manifest};
use super::ground::Ground;
use super::state::Pending;
use super::{ShipError, Shipped, Shipper, Steps, papers};
use crate::object::{ObjectError, get_small};

impl Shipper {
    /// Commits what is pending and whose object, if it has one, is in the store.
    pub(super) async fn commit(
        &self,
        ground: &mut Ground,
        pending: Pending,
        steps: Steps,
    ) -> Result<Shipped, ShipError> {
        let store = self.parts.store.as_ref();
        claim::still_ours(store, &ground.held).await.map_err(|e| self.of_claim(e))?;
        let manifest = pending.manifest;
        let (place, bytes) = (manifest.place(), Bytes::from(manifest.to_bytes()));
        let sha256 = Sum::of(&bytes);
        if !self.create_manifest(ground.conditional, &manifest, bytes).await? {
            self.state.clear_spool().await?;
            return Err(self.fenced(&format!(
                "somebody has committed another segment to {place}, who has a copy of this installation's state"
            )));
        }
        ground.held.tip = Some(Tip { place, sha256: sha256.clone() });
        self.state.hold(&ground.held).await?;
        self.state.clear_spool().await?;
        self.adopt_committed(&manifest).await;
        let entry = Entry::committed(manifest.clone(), sha256);
        ground.tip = Some(entry.clone());
        ground.catalog.entries.insert(place, entry);
        if let Err(error) = papers::keep_sums(store, &ground.catalog).await {
            warn!(%error, "`SHA256SUMS` could not be brought up to date: the next backup does it");
        }
        let shipped = Shipped { manifest, instead: None, steps };
        self.parts.metrics.know(&ground.catalog);
        self.parts.metrics.shipped(&shipped);
        tell(&shipped);
        Ok(shipped)
    }

    /// Whether the manifest is there with these bytes now; otherwise somebody else's is.
    pub(in crate::backup) async fn create_manifest(
        &self,
        conditional: bool,
        manifest: &Manifest,
        bytes: Bytes,
    ) -> Result<bool, ShipError> {
        let store = self.parts.store.as_ref();
        let key = manifest_key(manifest.place());
        if !conditional {
            match get_small(store, &key, manifest::MOST_BYTES).await {
                Ok(there) => return Ok(there == bytes),
                Err(ObjectError::Missing(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(create_or_same(store, &key, bytes).await?)
    }

    /// The source takes the new state for the one that the next increment begins at. Where it does not, the next segment is a full: no reason to say
    /// that this one has failed.
    async fn adopt_committed(&self, manifest: &Manifest) {
        let place = manifest.place();
        match self.parts.source.adopt(&manifest.base()).await {
            Ok(Adopted::Known) => {}
            Ok(Adopted::Unknown(why) | Adopted::Another(why)) => {
                warn!(%place, why, "the source does not know the state that was just shipped: the next backup is a full");
            }
            Err(error) => warn!(%place, %error, "the source could not take over the state that was just shipped"),
        }
    }
}

/// The one line that a backup leaves in the log.
pub(in crate::backup) fn tell(shipped: &Shipped) {
    let Shipped { manifest, steps, .. } = shipped;
    let Manifest { kind, pages, sent_pages, .. } = manifest;
    let (plain, stored) = (shipped.plain_bytes(), shipped.stored_bytes());
    let ratio = if stored == 0 { 0.0 } else { (plain as f64 / stored as f64 * 100.0).round() / 100.0 };
    let Steps { read, check, upload, read_back } = steps;
    info!(
        %kind,
        position = %manifest.place(),
        observed = %manifest.observed,
        pages,
        sent_pages,
        plain_bytes = plain,
        stored_bytes = stored,
        ratio,
        read = format!("{read:.1?}"),
        check = format!("{check:.1?}"),
        upload = format!("{upload:.1?}"),
        read_back = format!("{read_back:.1?}"),
        "backup committed"
    );
}
