// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls to the TSM.

use core::marker::PhantomData;

use guest_payload::claims::Nonces;
use guest_payload::report::Mapping;
use tsm_abi::rsi::{self, Call, HostCall, RealmConfig, VdevInfo};
use tsm_abi::{RSI_NOT_SUPPORTED, RsiStatus};
use tsm_payload_support::arch;
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use super::report::{Result, Stopped};

/// State of guest addresses (RIPAS) that the guest uses.
pub const EMPTY: u64 = 0;
/// Private memory.
pub const RAM: u64 = 1;
/// Private device registers.
pub const DEV: u64 = 3;

const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;

/// Alignment that the TSM accepts for any structure.
const PAGE: usize = 4096;

/// Room for a structure at an address that the TSM accepts.
///
/// The type itself is not aligned like that: rustc 1.95 for x86_64 leaves the prologue out of some
/// functions that align their stack as far as they probe it.
struct Page<T> {
    bytes: [u8; 2 * PAGE],
    of: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + KnownLayout> Page<T> {
    fn zeroed() -> Self {
        const { assert!(size_of::<T>() <= PAGE && align_of::<T>() == 1) };
        Self {
            bytes: [0; 2 * PAGE],
            of: PhantomData,
        }
    }

    /// Returns the structure. It stays where it is until `self` moves.
    fn contents(&mut self) -> &mut T {
        let start = self.bytes.as_ptr().align_offset(PAGE);
        let room = self.bytes.get_mut(start..start + size_of::<T>());
        match room.map(T::mut_from_bytes) {
            Some(Ok(contents)) => contents,
            _ => unreachable!("there is room, and no alignment"),
        }
    }

    /// Returns the structure's address, through which the TSM writes to it.
    fn address(&mut self) -> u64 {
        (&raw mut *self.contents()).expose_provenance() as u64
    }
}

/// Returned registers.
type Registers = [u64; arch::CALL_REGISTERS];

fn call(call: &Call) -> Registers {
    let (function, arguments) = call.encode();
    arch::call(function, &arguments)
}

/// Makes a call and returns its status in words.
pub fn status(request: &Call) -> RsiStatus {
    let [word, ..] = call(request);
    RsiStatus::from_word(word).unwrap_or(RsiStatus::Unknown)
}

/// Makes a call that must succeed.
fn must(request: &Call) -> Result<Registers> {
    let registers = call(request);
    if registers[0] == RsiStatus::Success.word() {
        return Ok(registers);
    }
    let (function, _) = request.encode();
    let missing = registers[0] == RSI_NOT_SUPPORTED;
    tsm_payload_support::println!(
        "CHECK {} | {} {:#x} | FAIL",
        rsi::name(function),
        if missing { "not there" } else { "status" },
        registers[0],
    );
    Err(Stopped)
}

/// Returns the lowest and highest interface version, having asked for the highest.
pub fn version() -> Result<(u64, u64)> {
    let requested = rsi::VERSION_HIGHEST;
    let [_, lower, higher, ..] = must(&Call::Version { requested })?;
    Ok((lower, higher))
}

/// Returns a feature register.
pub fn features(index: u64) -> Result<u64> {
    let [_, value, ..] = must(&Call::Features { index })?;
    Ok(value)
}

/// Returns the width of guest addresses.
pub fn ipa_bits() -> Result<u64> {
    let mut page = Page::<RealmConfig>::zeroed();
    let ipa = page.address();
    must(&Call::RealmConfig { ipa })?;
    Ok(page.contents().ipa_width.get())
}

/// Returns the state of the addresses from `base` on, and where it ends (at `top` at the latest).
pub fn ipa_state(base: u64, top: u64) -> Result<(u64, u64)> {
    let [_, out_top, state, ..] = must(&Call::IpaStateGet { base, top })?;
    Ok((state, out_top))
}

/// Returns whether all addresses of a range are in `state`.
pub fn all_in_state(base: u64, top: u64, state: u64) -> Result<bool> {
    let mut next = base;
    while next < top {
        let (seen, end) = ipa_state(next, top)?;
        if seen != state || end <= next {
            return Ok(false);
        }
        next = end;
    }
    Ok(true)
}

/// Asks for another state of a range. Returns whether the host agreed.
pub fn set_ipa_state(base: u64, top: u64, ripas: u64) -> Result<bool> {
    let mut next = base;
    while next < top {
        let [_, end, response, ..] = must(&Call::IpaStateSet {
            base: next,
            top,
            ripas,
            flags: 0,
        })?;
        if response != 0 || end <= next {
            return Ok(false);
        }
        next = end;
    }
    Ok(true)
}

/// Calls the host: `registers` go to it and come back from it.
pub fn host_call(immediate: u16, registers: &mut [u64; 31]) -> Result {
    let mut page = Page::<HostCall>::zeroed();
    page.contents().imm.set(immediate);
    for (slot, value) in page.contents().gprs.iter_mut().zip(registers.iter()) {
        slot.set(*value);
    }
    let ipa = page.address();
    // Not `must`: printing a failure would end up here again.
    if status(&Call::HostCall { ipa }) != RsiStatus::Success {
        return Err(Stopped);
    }
    for (value, slot) in registers.iter_mut().zip(&page.contents().gprs) {
        *value = slot.get();
    }
    Ok(())
}

/// Has `make` make a host call with zeros in its registers: the function, its argument and two zeros,
/// of which the function gives way to the status. Returns whether it succeeded.
#[cfg(target_arch = "x86_64")]
pub fn host_call_by(immediate: u16, make: impl FnOnce(&mut [u64; 4])) -> bool {
    let mut page = Page::<HostCall>::zeroed();
    page.contents().imm.set(immediate);
    let ipa = page.address();
    let (function, _) = Call::HostCall { ipa }.encode();
    let mut words = [function, ipa, 0, 0];
    make(&mut words);
    words[0] == RsiStatus::Success.word()
}

/// Returns what the TSM knows of a device.
pub fn vdev_info(vdev_id: u64) -> Result<VdevInfo> {
    let mut page = Page::<VdevInfo>::zeroed();
    let ipa = page.address();
    must(&Call::VdevGetInfo { vdev_id, ipa })?;
    Ok(page.contents().clone())
}

/// Makes the request to accept (a rest of) a mapping on the strength of the evidence that `nonces`
/// name.
pub fn validate_call(vdev_id: u64, mapping: &Mapping, nonces: Nonces) -> Call {
    Call::VdevValidateMapping {
        vdev_id,
        ipa_base: mapping.ipa,
        ipa_top: mapping.top,
        pa_base: mapping.pa,
        flags: 0,
        lock_nonce: nonces.lock,
        meas_nonce: nonces.measurements,
        report_nonce: nonces.report,
    }
}

/// Accepts a mapping. Returns whether the host did its part.
pub fn validate(vdev_id: u64, mapping: &Mapping, nonces: Nonces) -> Result<bool> {
    let mut rest = *mapping;
    while rest.ipa < rest.top {
        let [_, next, response, ..] = must(&validate_call(vdev_id, &rest, nonces))?;
        if response != 0 || next <= rest.ipa {
            return Ok(false);
        }
        rest.pa += next - rest.ipa;
        rest.ipa = next;
    }
    Ok(true)
}

/// Makes the request to let the device access this realm's memory.
pub fn dma_enable_call(vdev_id: u64, nonces: Nonces) -> Call {
    Call::VdevDmaEnable {
        vdev_id,
        flags: 0,
        non_ats_plane: 0,
        lock_nonce: nonces.lock,
        meas_nonce: nonces.measurements,
        report_nonce: nonces.report,
    }
}

/// Lets the device access this realm's memory.
pub fn dma_enable(vdev_id: u64, nonces: Nonces) -> Result {
    must(&dma_enable_call(vdev_id, nonces)).map(|_| ())
}

/// Ends the device's access to this realm's memory.
pub fn dma_disable(vdev_id: u64) -> Result {
    must(&Call::VdevDmaDisable { vdev_id }).map(|_| ())
}

/// Ends the realm's life.
pub fn power_off() -> ! {
    let _ = arch::call(PSCI_SYSTEM_OFF, &[]);
    arch::halt()
}
