// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Calls of R-EL2: results for the host, and services.

use core::sync::atomic::Ordering;

use tsm_abi::el3::{self, FirmeStatus, Status};
use zeroize::Zeroize;

use super::{FUNCTION, Monitor, REALM_DOWN, REALM_FAILED, REALM_UP, set_first};
use crate::attestation::AttestationKey;
use crate::context::{Context, Cpu, Pending, World};
use crate::gpt::{GPCCR, GRANULE, Gpi, GptError};
use crate::keys::{self, KeyError, Slot, Stream};
use crate::machine::{Board, Event, Processor};
use crate::services::{self, UNKNOWN};
use crate::token;

/// Granules that one FIRME_GM_GPI_SET moves at most: 32 MiB.
const RANGE_LIMIT: u64 = 8192;

impl<B: Board, P: Processor> Monitor<B, P> {
    pub(super) fn realm_call<'a>(&self, cpu: &'a mut Cpu) -> &'a mut Context {
        let answers = cpu.realm.x[0] & FUNCTION == el3::REQUEST_COMPLETE;
        if !answers || cpu.pending != Pending::Call {
            return self.other_realm_call(cpu);
        }
        let [_, a, b, c, d, e, f, g, h, ..] = cpu.realm.x;
        set_first(&mut cpu.host, [a, b, c, d, e, f, g, h]);
        cpu.pending = Pending::Idle;
        cpu.resume(World::NonSecure)
    }

    #[inline(never)]
    fn other_realm_call<'a>(&self, cpu: &'a mut Cpu) -> &'a mut Context {
        let next = match cpu.realm.x[0] & FUNCTION {
            el3::REQUEST_COMPLETE if cpu.pending == Pending::Access => self.access_answered(cpu),
            el3::BOOT_COMPLETE if cpu.pending == Pending::Boot => self.boot_complete(cpu),
            el3::REQUEST_COMPLETE | el3::BOOT_COMPLETE => {
                cpu.realm.x[0] = UNKNOWN;
                World::Realm
            }
            _ => {
                self.realm_service(&mut cpu.realm.x);
                World::Realm
            }
        };
        cpu.resume(next)
    }

    fn realm_service(&self, x: &mut [u64; 31]) {
        let [x0, a, b, c, ..] = *x;
        match x0 & FUNCTION {
            el3::GTSI_DELEGATE => x[0] = self.transition(a, Gpi::NonSecure, Gpi::Realm).word(),
            el3::GTSI_UNDELEGATE => x[0] = self.transition(a, Gpi::Realm, Gpi::NonSecure).word(),
            el3::GET_REALM_ATTEST_KEY => [x[0], x[1]] = self.attestation_key(a, b, c),
            el3::EL3_FEATURES => {
                // Register 0 has one bit, token signing in the monitor, and it is not offered.
                let status = if a == 0 { Status::Ok } else { Status::Invalid };
                [x[0], x[1]] = [status.word(), 0];
            }
            el3::RP_IDE_KEY_PROG | el3::RP_IDE_KEY_SET_GO | el3::RP_IDE_KEY_SET_STOP => {
                let status = self.key_call(x);
                // The key was in x4 to x7; it stays nowhere.
                x[4..10].zeroize();
                x[0] = status.word();
            }
            el3::PORTCULLIS_STREAM_WRITE
            | el3::PORTCULLIS_STREAM_READ
            | el3::PORTCULLIS_STREAM_CLEAR => {
                let result = self.stream_call(x);
                [x[1], x[2]] = result.unwrap_or_default();
                x[0] = result.map_or_else(|status| status, |_| Status::Ok).word();
            }
            el3::FIRME_VERSION => {
                x[0] = if a & 0xff <= 1 {
                    services::FIRME_VERSION_1_0
                } else {
                    UNKNOWN
                }
            }
            el3::FIRME_FEATURES => {
                [x[0], x[1]] = match services::firme_feature(a, b, GPCCR) {
                    Some(value) => [FirmeStatus::Success.word(), value],
                    None => [FirmeStatus::NotSupported.word(), 0],
                };
            }
            el3::GET_PLAT_TOKEN => [x[0], x[1], x[2]] = self.platform_token(a, b, c),
            el3::FIRME_GM_GPI_SET => [x[0], x[1]] = self.set_owner(a, b, c),
            el3::PORTCULLIS_FEATURES => self.features(x),
            el3::PORTCULLIS_CONSOLE_WRITE => x[0] = self.console_write(x).word(),
            // Among them RP_IDE_KM_POLL: nothing is ever pending.
            _ => x[0] = Status::Unknown.word(),
        }
    }

    fn boot_complete(&self, cpu: &mut Cpu) -> World {
        let [_, status, token, ..] = cpu.realm.x;
        cpu.pending = Pending::Idle;
        let ok = status as u32 == 0;
        if ok {
            // Once failed, failed: another processor that boots meanwhile changes nothing.
            let (down, up) = (REALM_DOWN, REALM_UP);
            let _was = self
                .realm
                .compare_exchange(down, up, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.realm.store(REALM_FAILED, Ordering::Relaxed);
        }
        if ok {
            cpu.activation_token = token;
        }
        self.board.note(if ok {
            Event::RealmUp(cpu.index)
        } else {
            Event::RealmFailed(status)
        });
        World::NonSecure
    }

    /// Moves granules that both worlds may have, and no others.
    fn move_granules(&self, base: u64, count: u64, from: Gpi, to: Gpi) -> Result<(), GptError> {
        let bytes = count.checked_mul(GRANULE).ok_or(GptError::Address)?;
        let layout = self.layout.get().ok_or(GptError::Address)?;
        let mut movable = layout.dram.iter().chain(&layout.device_memory);
        if !movable.any(|region| region.covers(base, bytes)) {
            return Err(GptError::Address);
        }
        let gpt = self.gpt.lock();
        gpt.as_ref()
            .ok_or(GptError::Address)?
            .change(base, count, from, to)?;
        // Under the lock: when this returns, no processor remembers the granule's old owner.
        self.processor.granules_changed();
        Ok(())
    }

    fn transition(&self, base: u64, from: Gpi, to: Gpi) -> Status {
        match self.move_granules(base, 1, from, to) {
            Ok(()) => Status::Ok,
            Err(GptError::Owner) => Status::BadPas,
            Err(_) => Status::BadAddress,
        }
    }

    /// Serves FIRME_GM_GPI_SET: all of the first [`RANGE_LIMIT`] granules, or none.
    fn set_owner(&self, base: u64, count: u64, attributes: u64) -> [u64; 2] {
        const REALM: u64 = Gpi::Realm as u64;
        const NON_SECURE: u64 = Gpi::NonSecure as u64;
        let count = count.min(RANGE_LIMIT);
        let result = match attributes {
            REALM => self.move_granules(base, count, Gpi::NonSecure, Gpi::Realm),
            NON_SECURE => self.move_granules(base, count, Gpi::Realm, Gpi::NonSecure),
            _ => Err(GptError::Address),
        };
        match result {
            Ok(()) => [FirmeStatus::Success.word(), count],
            Err(GptError::Owner) => [FirmeStatus::Denied.word(), 0],
            Err(_) => [FirmeStatus::InvalidParameters.word(), 0],
        }
    }

    /// Returns the offset of a buffer of R-EL2 in the shared page.
    fn shared(buffer: u64, size: u64) -> Result<usize, Status> {
        let offset = buffer.wrapping_sub(B::SHARED_PAGE);
        if offset >= GRANULE {
            return Err(Status::BadAddress);
        }
        if size > GRANULE - offset {
            return Err(Status::Invalid);
        }
        Ok(offset as usize)
    }

    /// Returns status, length of the token and what remains of it: tokens always come whole. The
    /// buffer holds the challenge of `challenge` bytes.
    #[inline(never)]
    fn platform_token(&self, buffer: u64, size: u64, challenge: u64) -> [u64; 3] {
        let offset = match Self::shared(buffer, size) {
            Ok(offset) => offset,
            Err(status) => return [status.word(), 0, 0],
        };
        let Some(measurements) = self.measurements.get() else {
            return [Status::Unknown.word(), 0, 0];
        };
        let mut asked = [0; 64];
        let challenge = match usize::try_from(challenge.min(size)) {
            Ok(length) => asked.get_mut(..length),
            Err(_) => None,
        };
        let Some(challenge) = challenge else {
            return [Status::Invalid.word(), 0, 0];
        };
        self.board.fetch(offset, challenge);
        let mut token = [0; token::TOKEN_SIZE];
        let made = token::make(challenge, measurements, &mut token);
        let Some(token) = made.and_then(|length| token.get(..length)) else {
            return [Status::Invalid.word(), 0, 0];
        };
        if token.len() as u64 > size {
            return [Status::Invalid.word(), 0, 0];
        }
        self.board.share(offset, token);
        [Status::Ok.word(), token.len() as u64, 0]
    }

    fn attestation_key(&self, buffer: u64, size: u64, curve: u64) -> [u64; 2] {
        let offset = match Self::shared(buffer, size) {
            Ok(offset) => offset,
            Err(status) => return [status.word(), 0],
        };
        // Curve 0 is P-384, the only one of the interface.
        if curve != 0 || size < AttestationKey::SIZE as u64 {
            return [Status::Invalid.word(), 0];
        }
        let Some(key) = self.attestation.get() else {
            return [Status::Unknown.word(), 0];
        };
        self.board.share(offset, key.bytes());
        [Status::Ok.word(), AttestationKey::SIZE as u64]
    }

    fn key_call(&self, x: &[u64; 31]) -> Status {
        let Some(unit) = self.board.keys() else {
            return Status::Fault;
        };
        if x[1] != B::ECAM.base {
            return Status::Invalid;
        }
        let _lock = self.keys.lock();
        let result = Slot::decode(x[2], x[3]).and_then(|slot| match x[0] & FUNCTION {
            el3::RP_IDE_KEY_PROG => {
                keys::program(unit, slot, &[x[4], x[5], x[6], x[7]], [x[8], x[9]])
            }
            el3::RP_IDE_KEY_SET_GO => keys::go(unit, slot),
            _ => {
                keys::stop(unit, slot);
                Ok(())
            }
        });
        result.map_or_else(key_status, |()| Status::Ok)
    }

    fn stream_call(&self, x: &[u64; 31]) -> Result<[u64; 2], Status> {
        let [function, ecam, port, register, first, second, ..] = *x;
        let unit = self.board.keys().ok_or(Status::Fault)?;
        if ecam != B::ECAM.base {
            return Err(Status::Invalid);
        }
        let (stream, pair) = Stream::decode_register(port, register).map_err(key_status)?;
        let _lock = self.keys.lock();
        match function & FUNCTION {
            el3::PORTCULLIS_STREAM_WRITE => {
                keys::write_pair(unit, stream, pair, [first, second]).map(|()| [0; 2])
            }
            el3::PORTCULLIS_STREAM_READ => keys::read_pair(unit, stream, pair),
            _ => {
                keys::clear(unit, stream);
                Ok([0; 2])
            }
        }
        .map_err(key_status)
    }

    fn features(&self, x: &mut [u64; 31]) {
        let layout = self.layout.get().copied().unwrap_or_default();
        x[0] = Status::Ok.word();
        x[1] = services::FEATURES.bits();
        x[2] = layout.reserved.base;
        x[3] = layout.reserved.top();
        x[4] = layout.hidden.map_or(el3::NO_HIDDEN_FUNCTION, u64::from);
    }

    fn console_write(&self, x: &[u64; 31]) -> Status {
        let mut bytes = [0; el3::CONSOLE_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(&x[2..8]) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        match usize::try_from(x[1])
            .ok()
            .and_then(|count| bytes.get(..count))
        {
            Some(data) if !data.is_empty() => {
                self.board.realm_log(data);
                Status::Ok
            }
            _ => Status::Invalid,
        }
    }
}

const fn key_status(error: KeyError) -> Status {
    match error {
        KeyError::Argument => Status::Invalid,
        KeyError::State => Status::Fault,
    }
}
