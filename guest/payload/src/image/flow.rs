// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The guest's side of the flow, from the first question to giving the disk back.

use guest_payload::claims::{self, Nonces};
use guest_payload::policy::Policy;
use guest_payload::report::{Mapping, Report};
use tsm_abi::rhi::{DA_VERSION_VALUE, TdiState};
use tsm_abi::rsi::{DeviceState, FEATURES_DA};
use tsm_abi::{RhiStatus, RsiStatus};
use tsm_payload_support::println;

use super::board::{self, DEVICE, DEVICE_WINDOW};
use super::evidence::{self, Objects};
use super::report::{Result, Stopped, check, judge, step};
use super::workload::Disk;
use super::{rhi, rsi};

/// The disk: bus 1, device 0, function 0.
const DISK: u64 = 0x0100;
/// Bytes of the disk's registers that its driver uses.
const REGISTERS: u64 = 0x2000;

/// Runs the flow; what stops it has been printed.
pub fn run() {
    let Ok(policy) = prepare() else {
        println!("NOTE the guest stops before it asks for a device");
        return;
    };
    if assigned(&policy).is_err() {
        println!("NOTE the guest gives the device up");
        let _ = rhi::set_state(DISK, TdiState::Unlocked);
    }
}

/// Finds out where the guest is, and what its owner wants.
fn prepare() -> Result<Policy> {
    #[cfg(target_arch = "x86_64")]
    {
        super::processor::check_registers()?;
        super::processor::check_confinement()?;
    }
    let (lower, higher) = rsi::version()?;
    check(
        "interface-version",
        format_args!("{lower:#x} to {higher:#x}"),
        higher >= tsm_abi::rsi::VERSION_HIGHEST,
    )?;
    let features = rsi::features(0)?;
    check(
        "device-assignment-offered",
        format_args!("feature register 0 is {features:#x}"),
        FEATURES_DA.of(features) == 1,
    )?;
    let bits = rsi::ipa_bits()?;
    check(
        "address-width",
        format_args!("{bits} bits"),
        bits == board::IPA_BITS,
    )?;
    if !rsi::all_in_state(0, board::MEMORY, rsi::RAM)? {
        let agreed = rsi::set_ipa_state(0, board::MEMORY, rsi::RAM)?;
        println!("NOTE the guest asked for its memory to be private: {agreed}");
    }
    check(
        "memory-is-private",
        format_args!("0 to {:#x}", board::MEMORY),
        rsi::all_in_state(0, board::MEMORY, rsi::RAM)?,
    )?;

    let page = board::policy();
    let bytes: [u8; 0xb0] = core::array::from_fn(|offset| page.read8(offset));
    let policy = Policy::parse(&bytes);
    check(
        "owner-policy",
        format_args!("version 1 found: {}", policy.is_some()),
        policy.is_some(),
    )?;
    let version = rhi::version()?;
    check(
        "host-interface-version",
        format_args!("{version:#x}, features {:#x}", rhi::features()?),
        version >> 16 == DA_VERSION_VALUE >> 16,
    )?;
    policy.ok_or(Stopped)
}

/// Moves the interface to another state, through the host.
fn set_state(number: &str, state: TdiState) -> Result {
    let status = rhi::set_state(DISK, state)?;
    step(
        number,
        "RHI_DA_VDEV_SET_TDI_STATE",
        format_args!("{state:?}: {status:?}"),
    );
    check(
        "host-carries-request",
        format_args!("{state:?}: {status:?}"),
        status == RhiStatus::Success,
    )
}

/// Takes the disk, uses it and gives it back.
fn assigned(policy: &Policy) -> Result {
    set_state("12", TdiState::Locked)?;
    let mut objects = Objects::new();
    let (report, nonces) = evidence::collect(DISK, policy, &mut objects)?;
    accept(&report, nonces)?;

    set_state("31", TdiState::Run)?;
    let info = rsi::vdev_info(DISK)?;
    step(
        "34",
        "RSI_VDEV_GET_INFO",
        format_args!("state {}", info.state.get()),
    );
    judge(
        "device-started",
        claims::verify_state(&info, DeviceState::Started),
    )?;
    judge("nonces-current", claims::verify_current(&info, nonces))?;
    let stale = Nonces {
        measurements: nonces.measurements.wrapping_sub(1),
        ..nonces
    };
    refused("stale-dma-enable", &rsi::dma_enable_call(DISK, stale))?;
    rsi::dma_enable(DISK, nonces)?;
    step("34", "RSI_VDEV_DMA_ENABLE", format_args!("Success"));

    work(policy, nonces)?;
    give_back(&report)
}

/// Checks that the TSM refuses `call`.
fn refused(name: &str, call: &tsm_abi::rsi::Call) -> Result {
    let status = rsi::status(call);
    check(
        name,
        format_args!("{status:?}"),
        status != RsiStatus::Success && status != RsiStatus::Incomplete,
    )
}

/// Maps the disk's private registers, having seen that the TSM refuses what it must.
fn accept(report: &Report<'_>, nonces: Nonces) -> Result {
    let mappings = judge(
        "register-mappings",
        report.mappings(DEVICE, DEVICE_WINDOW, REGISTERS),
    )?;
    let early = rsi::dma_enable_call(DISK, nonces);
    refused("dma-enable-before-start", &early)?;
    let base = report.ranges().map(|range| range.base).min().unwrap_or(0);
    if let Some(range) = report.ranges().find(|range| !range.is_private()) {
        let mapping = Mapping {
            ipa: DEVICE + (range.base - base),
            top: DEVICE + (range.top - base),
            pa: range.base,
            range_id: range.id,
        };
        let call = rsi::validate_call(DISK, &mapping, nonces);
        refused("map-of-host-range", &call)?;
    }
    for mapping in mappings {
        let stale = Nonces {
            report: nonces.report.wrapping_sub(1),
            ..nonces
        };
        let call = rsi::validate_call(DISK, &mapping, stale);
        refused("stale-mapping", &call)?;
        let accepted = rsi::validate(DISK, &mapping, nonces)?;
        step(
            "27",
            "RSI_VDEV_VALIDATE_MAPPING",
            format_args!(
                "{:#x} to {:#x} shows {:#x}: {accepted}",
                mapping.ipa, mapping.top, mapping.pa
            ),
        );
        check(
            "registers-are-private",
            format_args!("{:#x} to {:#x}", mapping.ipa, mapping.top),
            accepted && rsi::all_in_state(mapping.ipa, mapping.top, rsi::DEV)?,
        )?;
        let elsewhere = Mapping {
            ipa: mapping.ipa + DEVICE_WINDOW,
            top: mapping.top + DEVICE_WINDOW,
            ..mapping
        };
        let call = rsi::validate_call(DISK, &elsewhere, nonces);
        refused("second-mapping", &call)?;
    }
    Ok(())
}

/// Offset of the version register of an NVMe controller.
const NVME_VERSION: usize = 8;

/// Uses the disk before and after the host has attacked.
fn work(policy: &Policy, nonces: Nonces) -> Result {
    let mut disk = Disk::start(policy)?;
    disk.read_known("disk-read")?;
    disk.write_and_read_back()?;
    step("35", "workload", format_args!("the host may attack now"));
    if rhi::pause(1)? {
        // A guest that trusts its host: what it reads must be nothing.
        let version = board::disk().read32(NVME_VERSION);
        check(
            "registers-answer-nobody",
            format_args!("{version:#x}"),
            false,
        )?;
    }
    let info = rsi::vdev_info(DISK)?;
    judge(
        "device-still-started",
        claims::verify_state(&info, DeviceState::Started),
    )?;
    judge(
        "nonces-still-current",
        claims::verify_current(&info, nonces),
    )?;
    disk.read_known("disk-read-after-attacks")?;
    disk.stop()
}

/// Gives the disk back: DMA first, then the registers, then the interface.
fn give_back(report: &Report<'_>) -> Result {
    rsi::dma_disable(DISK)?;
    step("36", "RSI_VDEV_DMA_DISABLE", format_args!("Success"));
    let mappings = judge(
        "register-mappings",
        report.mappings(DEVICE, DEVICE_WINDOW, REGISTERS),
    )?;
    for mapping in mappings {
        let agreed = rsi::set_ipa_state(mapping.ipa, mapping.top, rsi::EMPTY)?;
        step(
            "36",
            "RSI_IPA_STATE_SET",
            format_args!("{:#x} to {:#x} empty: {agreed}", mapping.ipa, mapping.top),
        );
        check(
            "registers-given-back",
            format_args!("{:#x} to {:#x}", mapping.ipa, mapping.top),
            agreed && rsi::all_in_state(mapping.ipa, mapping.top, rsi::EMPTY)?,
        )?;
    }
    // What the host does to its object now is its business; the guest has no claim on it any more.
    set_state("37", TdiState::Unlocked)
}
