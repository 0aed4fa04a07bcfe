//! What went through each network device: `/proc/net/dev`, and what only `/sys/class/net` knows.

use std::path::Path;

use procfs::FromBufRead;
use procfs::net::{DeviceStatus, InterfaceDeviceStatus};

use super::{counter, files};
use crate::sample::globs::Globs;
use crate::sample::{Batch, Desc, Labels};
use crate::scrape::CollectError;

/// The families of this collector; all but the last in the order of the file's columns.
pub const METRICS: &[Desc] = &[
    counter("node_network_receive_bytes_total", "bytes", "Network device statistic receive_bytes."),
    counter("node_network_receive_packets_total", "packets", "Network device statistic receive_packets."),
    counter("node_network_receive_errs_total", "errors", "Network device statistic receive_errs."),
    counter("node_network_receive_drop_total", "packets", "Network device statistic receive_drop."),
    counter("node_network_receive_fifo_total", "errors", "Network device statistic receive_fifo."),
    counter("node_network_receive_frame_total", "errors", "Network device statistic receive_frame."),
    counter("node_network_receive_compressed_total", "packets", "Network device statistic receive_compressed."),
    counter("node_network_receive_multicast_total", "packets", "Network device statistic receive_multicast."),
    counter("node_network_transmit_bytes_total", "bytes", "Network device statistic transmit_bytes."),
    counter("node_network_transmit_packets_total", "packets", "Network device statistic transmit_packets."),
    counter("node_network_transmit_errs_total", "errors", "Network device statistic transmit_errs."),
    counter("node_network_transmit_drop_total", "packets", "Network device statistic transmit_drop."),
    counter("node_network_transmit_fifo_total", "errors", "Network device statistic transmit_fifo."),
    counter("node_network_transmit_colls_total", "collisions", "Network device statistic transmit_colls."),
    counter("node_network_transmit_carrier_total", "errors", "Network device statistic transmit_carrier."),
    counter("node_network_transmit_compressed_total", "packets", "Network device statistic transmit_compressed."),
    NO_HANDLER,
];

/// node_exporter has it from netlink, older ones not at all.
const NO_HANDLER: Desc =
    counter("node_network_receive_nohandler_total", "packets", "Network device statistic receive_nohandler.");

/// Adds what is there now.
pub fn read(procfs: &Path, sysfs: &Path, ignored: &Globs, batch: &mut Batch) -> Result<(), CollectError> {
    let path = procfs.join("net/dev");
    let devices = InterfaceDeviceStatus::from_buf_read(files::bytes(&path)?.as_slice())
        .map_err(|e| files::malformed(&path, e))?;
    let mut devices: Vec<_> = devices.0.into_values().filter(|device| !ignored.matches(&device.name)).collect();
    devices.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for device in &devices {
        let labels = || Labels::none().with("device", device.name.as_str());
        for (desc, value) in METRICS.iter().zip(values(device)) {
            batch.push(desc, labels(), value as f64);
        }
        let file = sysfs.join("class/net").join(&device.name).join("statistics/rx_nohandler");
        if let Some(value) = files::sensor_number(&file) {
            batch.push(&NO_HANDLER, labels(), value);
        }
    }
    Ok(())
}

/// The sixteen columns of the file.
fn values(d: &DeviceStatus) -> [u64; 16] {
    [
        d.recv_bytes,
        d.recv_packets,
        d.recv_errs,
        d.recv_drop,
        d.recv_fifo,
        d.recv_frame,
        d.recv_compressed,
        d.recv_multicast,
        d.sent_bytes,
        d.sent_packets,
        d.sent_errs,
        d.sent_drop,
        d.sent_fifo,
        d.sent_colls,
        d.sent_carrier,
        d.sent_compressed,
    ]
}
