//! Which kernel this is.

use std::ffi::CStr;

use super::gauge;
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector.
pub const METRICS: &[Desc] =
    &[gauge("node_uname_info", "1", "Labeled system information as provided by the uname system call.")];

/// Adds what is there now.
pub fn read(batch: &mut Batch) -> Result<(), CollectError> {
    let uname = rustix::system::uname();
    let text = |value: &CStr| value.to_string_lossy().into_owned();
    let labels = Labels::none()
        .with("sysname", text(uname.sysname()))
        .with("release", text(uname.release()))
        .with("version", text(uname.version()))
        .with("machine", text(uname.machine()))
        .with("nodename", text(uname.nodename()))
        .with("domainname", text(uname.domainname()));
    batch.push(&METRICS[0], labels, 1.0);
    Ok(())
}
