// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fetching evidence and judging it.

use guest_payload::agreed::Agreed;
use guest_payload::certificate;
use guest_payload::claims::{self, Nonces};
use guest_payload::measurement::Measurements;
use guest_payload::policy::Policy;
use guest_payload::report::Report;
use tsm_abi::RhiStatus;
use tsm_abi::rhi::Object;
use tsm_abi::rsi::{DeviceState, VdevInfo};
use tsm_payload_support::println;

use super::report::{Result, check, judge, step};
use super::{random, rhi, rsi};

/// Largest object that is fetched, in bytes.
const MOST_BYTES: usize = 0x8000;
/// Measurement block of the device's firmware.
const FIRMWARE_BLOCK: u8 = 1;

/// Room for the objects.
pub struct Objects {
    vca: [u8; MOST_BYTES],
    certificates: [u8; MOST_BYTES],
    measurements: [u8; MOST_BYTES],
    report: [u8; MOST_BYTES],
}

impl Objects {
    /// Returns room that holds nothing.
    pub const fn new() -> Self {
        Self {
            vca: [0; MOST_BYTES],
            certificates: [0; MOST_BYTES],
            measurements: [0; MOST_BYTES],
            report: [0; MOST_BYTES],
        }
    }
}

fn fetch<'a>(
    vdev_id: u64,
    name: &str,
    object: Object,
    stated: &[u8; 64],
    out: &'a mut [u8],
) -> Result<&'a [u8]> {
    let Ok(bytes) = rhi::read_object(vdev_id, object, out) else {
        check(
            name,
            format_args!("the host has it not, or too long"),
            false,
        )?;
        return Ok(&[]);
    };
    step(
        "23",
        "RHI_DA_OBJECT_READ",
        format_args!("{} bytes of {name}", bytes.len()),
    );
    judge(name, claims::verify_digest(stated, bytes))?;
    Ok(bytes)
}

/// Has fresh measurements and a fresh report fetched; returns what the TSM says afterwards.
fn refresh(vdev_id: u64) -> Result<(VdevInfo, [u8; 32])> {
    let before = rsi::vdev_info(vdev_id)?;
    step(
        "24b",
        "RSI_VDEV_GET_INFO",
        format_args!("state {}", before.state.get()),
    );
    judge(
        "device-locked",
        claims::verify_state(&before, DeviceState::Locked),
    )?;
    let random = random::nonce();
    check(
        "nonce",
        format_args!("the processor's generator answers: {}", random.is_some()),
        random.is_some(),
    )?;
    let nonce = random.unwrap_or_default();
    let measured = rhi::measure(vdev_id, &nonce)?;
    step(
        "21",
        "RHI_DA_VDEV_GET_MEASUREMENTS",
        format_args!("{measured:?}"),
    );
    let reported = rhi::fetch_report(vdev_id)?;
    step(
        "22",
        "RHI_DA_VDEV_GET_INTERFACE_REPORT",
        format_args!("{reported:?}"),
    );
    check(
        "evidence-fetched",
        format_args!("{measured:?}, {reported:?}"),
        measured == RhiStatus::Success && reported == RhiStatus::Success,
    )?;
    let after = rsi::vdev_info(vdev_id)?;
    judge(
        "device-still-locked",
        claims::verify_state(&after, DeviceState::Locked),
    )?;
    judge("nonces-fresh", claims::verify_fetched(&before, &after))?;
    Ok((after, nonce))
}

/// Fetches all evidence under the present lock and judges it by `policy`. Returns the report and
/// the nonces that name this evidence.
pub fn collect<'a>(
    vdev_id: u64,
    policy: &Policy,
    objects: &'a mut Objects,
) -> Result<(Report<'a>, Nonces)> {
    let (info, nonce) = refresh(vdev_id)?;
    let vca = fetch(
        vdev_id,
        "negotiation",
        Object::Vca,
        &info.vca_digest,
        &mut objects.vca,
    )?;
    let chain = fetch(
        vdev_id,
        "certificates",
        Object::Certificate,
        &info.cert_digest,
        &mut objects.certificates,
    )?;
    let measurements = fetch(
        vdev_id,
        "measurements",
        Object::Measurements,
        &info.meas_digest,
        &mut objects.measurements,
    )?;
    let report = fetch(
        vdev_id,
        "interface-report",
        Object::InterfaceReport,
        &info.report_digest,
        &mut objects.report,
    )?;

    let agreed = judge("negotiation-form", Agreed::read(vca))?;
    let key = judge(
        "certificate-chain",
        certificate::verify_chain(chain, &policy.root, agreed.hash),
    )?;
    judge("session-key", claims::verify_key(&info, &key))?;
    let measurements = judge(
        "measurement-form",
        Measurements::parse(measurements, agreed, &key),
    )?;
    let slot = u8::try_from(info.cert_id.get()).unwrap_or(u8::MAX);
    judge(
        "measurement-signature",
        measurements.verify_signature(vca, &nonce, slot, &key),
    )?;
    judge(
        "firmware-measurement",
        measurements.verify_digest(FIRMWARE_BLOCK, &policy.firmware),
    )?;
    let report = judge("report-ranges", Report::parse(report))?;
    judge("interface-info", report.verify_interface_info())?;
    for range in report.ranges() {
        println!(
            "NOTE device range {:#x} to {:#x}, id {}, {}",
            range.base,
            range.top,
            range.id,
            if range.is_private() {
                "private"
            } else {
                "not private"
            }
        );
    }
    Ok((report, Nonces::of(&info)))
}
