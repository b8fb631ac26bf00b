// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls to EL3.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use tsm_abi::el3::{self, FirmeStatus, Status};
use tsm_ide::unit::key_words;
use tsm_platform::{GRANULE_SIZE, GranuleRange, PlatformError};
use zeroize::Zeroizing;

/// Attempts at a call that answers "busy" or "incomplete" without progress.
const ATTEMPTS: u32 = 64;

/// Calls EL3 with up to 11 arguments and returns x0 to x4.
pub fn call(function: u64, arguments: &[u64]) -> [u64; 5] {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    let (x0, x1, x2, x3, x4): (u64, u64, u64, u64, u64);
    // SAFETY: EL3 touches no memory of ours but the shared page, which no reference points to; the
    // calling convention keeps x18 to x30.
    unsafe {
        asm!(
            "smc #0",
            inlateout("x0") function => x0,
            inlateout("x1") argument(0) => x1,
            inlateout("x2") argument(1) => x2,
            inlateout("x3") argument(2) => x3,
            inlateout("x4") argument(3) => x4,
            inlateout("x5") argument(4) => _,
            inlateout("x6") argument(5) => _,
            inlateout("x7") argument(6) => _,
            inlateout("x8") argument(7) => _,
            inlateout("x9") argument(8) => _,
            inlateout("x10") argument(9) => _,
            inlateout("x11") argument(10) => _,
            lateout("x12") _, lateout("x13") _, lateout("x14") _,
            lateout("x15") _, lateout("x16") _, lateout("x17") _,
            options(nostack),
        );
    }
    [x0, x1, x2, x3, x4]
}

fn status(word: u64) -> Result<(), PlatformError> {
    match Status::from_word(word) {
        Some(Status::Ok) => Ok(()),
        Some(Status::Unknown) => Err(PlatformError::Unsupported),
        Some(Status::Again | Status::InProgress) => Err(PlatformError::Timeout),
        _ => Err(PlatformError::Refused),
    }
}

/// What the monitor says about itself.
pub struct Offer {
    /// What it offers.
    pub features: el3::Features,
    /// MMIO that it keeps.
    pub reserved: Option<GranuleRange>,
    /// The function that it hides.
    pub hidden: Option<u16>,
}

/// Asks the monitor what it offers. Another monitor than ours offers nothing.
pub fn offer() -> Offer {
    let [code, features, base, top, hidden] = call(el3::PORTCULLIS_FEATURES, &[]);
    if code != 0 {
        return Offer {
            features: el3::Features::empty(),
            reserved: None,
            hidden: None,
        };
    }
    Offer {
        features: el3::Features::from_bits_truncate(features),
        reserved: GranuleRange::new(base, top),
        hidden: u16::try_from(hidden).ok(),
    }
}

/// Prints up to [`el3::CONSOLE_BYTES`] bytes; returns whether the monitor has a console.
pub fn console_write(bytes: &[u8]) -> bool {
    let mut arguments = [0; 7];
    let mut words = bytes.chunks(8);
    for argument in arguments.iter_mut().skip(1) {
        let mut word = [0; 8];
        let chunk = words.next().unwrap_or(&[]);
        word[..chunk.len()].copy_from_slice(chunk);
        *argument = u64::from_le_bytes(word);
    }
    arguments[0] = bytes.len().min(el3::CONSOLE_BYTES) as u64;
    call(el3::PORTCULLIS_CONSOLE_WRITE, &arguments)[0] == 0
}

/// Whether EL3 changes the owner of a range in one call.
static RANGES: AtomicBool = AtomicBool::new(true);

/// Moves `range` to the Realm world or back to the host, as a whole or not at all.
pub fn set_owner(range: GranuleRange, realm: bool) -> Result<(), PlatformError> {
    let outcome = if RANGES.load(Ordering::Relaxed) {
        set_range(range, realm)
    } else {
        set_each(range, realm)
    };
    match outcome {
        Err((PlatformError::Unsupported, _)) if RANGES.swap(false, Ordering::Relaxed) => {
            set_owner(range, realm)
        }
        Err((error, done)) => {
            // What was changed is changed back; that it was possible before makes it possible now.
            if let Some(part) = GranuleRange::new(range.base(), done) {
                let _ = set_range(part, !realm).or_else(|_| set_each(part, !realm));
            }
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

/// Changes `range` by range calls. An error comes with the address up to which it was done.
fn set_range(range: GranuleRange, realm: bool) -> Result<(), (PlatformError, u64)> {
    let value = if realm {
        el3::GPI_REALM
    } else {
        el3::GPI_NON_SECURE
    };
    let mut base = range.base();
    let mut attempts = ATTEMPTS;
    while base < range.top() {
        let left = (range.top() - base) / GRANULE_SIZE;
        let [code, done, ..] = call(el3::FIRME_GM_GPI_SET, &[base, left, value]);
        match FirmeStatus::from_word(code) {
            Some(FirmeStatus::Success) if done == 0 || done >= left => return Ok(()),
            Some(FirmeStatus::Success | FirmeStatus::Incomplete) if done != 0 => {
                // Not past the top of the range.
                base = base.wrapping_add(done.min(left).wrapping_mul(GRANULE_SIZE));
                attempts = ATTEMPTS;
            }
            Some(FirmeStatus::Incomplete | FirmeStatus::Busy) if attempts > 0 => attempts -= 1,
            Some(FirmeStatus::Incomplete | FirmeStatus::Busy) => {
                return Err((PlatformError::Timeout, base));
            }
            Some(FirmeStatus::NotSupported) => return Err((PlatformError::Unsupported, base)),
            _ => return Err((PlatformError::Refused, base)),
        }
    }
    Ok(())
}

/// Changes `range` one granule at a time.
fn set_each(range: GranuleRange, realm: bool) -> Result<(), (PlatformError, u64)> {
    let function = if realm {
        el3::GTSI_DELEGATE
    } else {
        el3::GTSI_UNDELEGATE
    };
    for granule in range.granules() {
        let base = granule.address();
        let mut outcome = Err(PlatformError::Timeout);
        for _ in 0..ATTEMPTS {
            outcome = status(call(function, &[base])[0]);
            if outcome != Err(PlatformError::Timeout) {
                break;
            }
        }
        outcome.map_err(|error| (error, base))?;
    }
    Ok(())
}

/// Programs a key of a root port. See [`el3::RP_IDE_KEY_PROG`].
pub fn key_program(
    ecam: u64,
    port: u16,
    info: u64,
    key: &[u8; 32],
    iv: u64,
) -> Result<(), PlatformError> {
    let mut arguments = Zeroizing::new([ecam, u64::from(port), info, 0, 0, 0, 0, iv, 0]);
    arguments[3..7].copy_from_slice(&*key_words(key));
    // The monitor clears the registers that carried the key.
    status(call(el3::RP_IDE_KEY_PROG, &*arguments)[0])
}

/// Starts using a key of a root port.
pub fn key_go(ecam: u64, port: u16, info: u64) -> Result<(), PlatformError> {
    status(call(el3::RP_IDE_KEY_SET_GO, &[ecam, u64::from(port), info])[0])
}

/// Stops using a key of a root port and forgets it.
pub fn key_stop(ecam: u64, port: u16, info: u64) -> Result<(), PlatformError> {
    status(call(el3::RP_IDE_KEY_SET_STOP, &[ecam, u64::from(port), info])[0])
}

/// Writes a register pair of a stream of a root port. See [`el3::PORTCULLIS_STREAM_WRITE`].
pub fn stream_write(
    ecam: u64,
    port: u16,
    register: u64,
    words: [u64; 2],
) -> Result<(), PlatformError> {
    let [first, second] = words;
    let arguments = [ecam, u64::from(port), register, first, second];
    status(call(el3::PORTCULLIS_STREAM_WRITE, &arguments)[0])
}

/// Reads a register pair of a stream of a root port.
pub fn stream_read(ecam: u64, port: u16, register: u64) -> Result<[u64; 2], PlatformError> {
    let arguments = [ecam, u64::from(port), register];
    let [code, first, second, ..] = call(el3::PORTCULLIS_STREAM_READ, &arguments);
    status(code).map(|()| [first, second])
}

/// Disables a stream of a root port and clears its registers.
pub fn stream_clear(ecam: u64, port: u16, stream: u8) -> Result<(), PlatformError> {
    let arguments = [ecam, u64::from(port), u64::from(stream)];
    status(call(el3::PORTCULLIS_STREAM_CLEAR, &arguments)[0])
}
