// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls to the host. Nothing that comes back is trusted.

use tsm_abi::RhiStatus;
use tsm_abi::rhi::{self, Object, TdiState};
use tsm_abi::rmi::VdevMeasureParams;
use zerocopy::{FromZeros, IntoBytes};

use super::board;
use super::report::{Result, Stopped};
use super::rsi;

/// Immediate of the host call that lets the host attack; register 0 says in which phase we are.
const PHASE_IMMEDIATE: u16 = 2;
/// The answer to it by which the host asks for a careless guest.
const CARELESS: u64 = 0x636c_6573;
/// Most times that the host may say "not yet".
const MOST_CONTINUES: usize = 100_000;
/// Bytes that one read moves through the shared window: one page, and one is enough.
const WINDOW: usize = 4096;

/// Prints text through the host.
pub fn print(text: &[u8]) {
    for piece in text.chunks(rhi::CONSOLE_BYTES) {
        let mut registers = [0; 31];
        registers[0] = piece.len() as u64;
        for (register, bytes) in registers.iter_mut().skip(1).zip(piece.chunks(8)) {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            *register = u64::from_le_bytes(word);
        }
        let _ = rsi::host_call(rhi::CONSOLE_IMMEDIATE, &mut registers);
    }
}

/// Lets the host do its worst, and returns when it has: whether the host wants the disk used without
/// asking the TSM about it first.
pub fn pause(phase: u64) -> Result<bool> {
    let mut registers = [0; 31];
    registers[0] = phase;
    rsi::host_call(PHASE_IMMEDIATE, &mut registers)?;
    Ok(registers[0] == CARELESS)
}

/// Calls a function of the host; returns registers 0 and 1.
fn call(function: u64, arguments: &[u64]) -> Result<(u64, u64)> {
    let mut registers = [0; 31];
    registers[0] = function;
    for (register, argument) in registers.iter_mut().skip(1).zip(arguments) {
        *register = *argument;
    }
    rsi::host_call(rhi::IMMEDIATE, &mut registers)?;
    Ok((registers[0], registers[1]))
}

/// Calls a function that may take several rounds.
fn call_to_end(function: u64, arguments: &[u64]) -> Result<RhiStatus> {
    let [vdev_id, ..] = *arguments else {
        return Err(Stopped);
    };
    let (mut word, _) = call(function, arguments)?;
    for _ in 0..MOST_CONTINUES {
        match RhiStatus::from_word(word) {
            Some(RhiStatus::Incomplete) => (word, _) = call(rhi::DA_VDEV_CONTINUE, &[vdev_id])?,
            Some(status) => return Ok(status),
            None => return Err(Stopped),
        }
    }
    Err(Stopped)
}

/// Returns the version of the device calls.
pub fn version() -> Result<u64> {
    call(rhi::DA_VERSION, &[]).map(|(version, _)| version)
}

/// Returns which device calls the host answers, one bit each.
pub fn features() -> Result<u64> {
    call(rhi::DA_FEATURES, &[]).map(|(features, _)| features)
}

/// Asks for another state of the device interface.
pub fn set_state(vdev_id: u64, state: TdiState) -> Result<RhiStatus> {
    call_to_end(rhi::DA_VDEV_SET_TDI_STATE, &[vdev_id, state.word()])
}

/// Has measurements fetched with `nonce`.
pub fn measure(vdev_id: u64, nonce: &[u8; 32]) -> Result<RhiStatus> {
    let mut params = VdevMeasureParams::new_zeroed();
    params.nonce = *nonce;
    let shared = board::shared();
    for (offset, byte) in params.as_bytes().iter().take(WINDOW).enumerate() {
        shared.write8(offset, *byte);
    }
    call_to_end(rhi::DA_VDEV_GET_MEASUREMENTS, &[vdev_id, board::SHARED])
}

/// Has the interface report fetched.
pub fn fetch_report(vdev_id: u64) -> Result<RhiStatus> {
    call_to_end(rhi::DA_VDEV_GET_INTERFACE_REPORT, &[vdev_id])
}

/// Copies an object into private memory: `out` holds it as long as it is; a longer one is refused.
/// Each byte is read once from memory that the host can change.
pub fn read_object(vdev_id: u64, object: Object, out: &mut [u8]) -> Result<&[u8]> {
    let (word, size) = call(rhi::DA_OBJECT_SIZE, &[vdev_id, object.word()])?;
    let size = usize::try_from(size).map_err(|_| Stopped)?;
    if word != RhiStatus::Success.word() || size == 0 {
        return Err(Stopped);
    }
    let out = out.get_mut(..size).ok_or(Stopped)?;
    let shared = board::shared();
    let mut done = 0;
    while done < size {
        let wanted = (size - done).min(WINDOW);
        let arguments = [
            vdev_id,
            object.word(),
            board::SHARED,
            wanted as u64,
            done as u64,
        ];
        let (word, length) = call(rhi::DA_OBJECT_READ, &arguments)?;
        let length = usize::try_from(length).map_err(|_| Stopped)?;
        if word != RhiStatus::Success.word() || length == 0 || length > wanted {
            return Err(Stopped);
        }
        for (offset, byte) in out.iter_mut().skip(done).take(length).enumerate() {
            *byte = shared.read8(offset);
        }
        done += length;
    }
    Ok(out)
}
