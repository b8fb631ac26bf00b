// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Status words of the host, guest and guest-to-host interfaces.

use crate::values::values;

values! {
    /// Status codes of the host interface: bits 7:0 of the returned word.
    RmiCode {
        /// Done.
        Success = 0,
        /// An input value is wrong.
        Input = 1,
        /// An attribute of the realm does not match.
        Realm = 2,
        /// An attribute of the REC does not match.
        Rec = 3,
        /// A walk of the translation tables ended early, or met an entry in another state; the
        /// index is the level.
        Rtt = 4,
        /// The call does not exist here.
        NotSupported = 5,
        /// An attribute of a device does not match.
        Device = 6,
        /// An entry of an auxiliary table has another state.
        RttAux = 7,
        /// A walk of the IOMMU's stream table ended early.
        PsmmuSt = 8,
        /// A walk of the device permission table ended early.
        Dpt = 9,
        /// No progress for now; nothing changed.
        Busy = 10,
        /// The state of the firmware as a whole does not match.
        Global = 11,
        /// The state of a tracking region does not match.
        Tracking = 12,
        /// The operation began and waits to be continued.
        Incomplete = 13,
        /// The object waits for another operation to be continued.
        Blocked = 14,
        /// A granule protection table has another level.
        Gpt = 15,
        /// An attribute of a granule does not match.
        Granule = 16,
    }
}

values! {
    /// What an incomplete operation wants before it is continued.
    MemoryRequest {
        /// Nothing.
        None = 0,
        /// Memory from the host.
        Donate = 1,
        /// That the host takes memory back.
        Reclaim = 2,
    }
}

/// The word that a host call returns in register 0: a code in bits 7:0, an index in bits 15:8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmiStatus {
    /// What happened.
    pub code: RmiCode,
    /// Detail; what it means depends on the code.
    pub index: u8,
}

macro_rules! plain_statuses {
    ($($name:ident = $code:ident;)*) => {
        $(
            #[doc = concat!("[`RmiCode::", stringify!($code), "`] with index 0.")]
            pub const $name: Self = Self { code: RmiCode::$code, index: 0 };
        )*
    };
}

impl RmiStatus {
    plain_statuses! {
        SUCCESS = Success;
        INPUT = Input;
        REALM = Realm;
        REC = Rec;
        NOT_SUPPORTED = NotSupported;
        DEVICE = Device;
        PSMMU_ST = PsmmuSt;
        BUSY = Busy;
        GLOBAL = Global;
        TRACKING = Tracking;
        BLOCKED = Blocked;
        GRANULE = Granule;
    }

    /// Returns the status of a table walk that ended at `level`.
    #[must_use]
    pub const fn rtt(level: u8) -> Self {
        Self {
            code: RmiCode::Rtt,
            index: level,
        }
    }

    /// Returns the status of an operation that waits, with what it waits for.
    #[must_use]
    pub const fn incomplete(request: MemoryRequest, can_cancel: bool) -> Self {
        // Bits 9:8 of the word are the request, bit 10 says whether it can be cancelled.
        let cancel = if can_cancel { 4 } else { 0 };
        Self {
            code: RmiCode::Incomplete,
            index: request as u8 | cancel,
        }
    }

    /// Returns the word for register 0.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.code as u64 | (self.index as u64) << 8
    }

    /// Returns the status in `word`, if it is one.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        let [code, index, 0, 0, 0, 0, 0, 0] = word.to_le_bytes() else {
            return None;
        };
        match RmiCode::from_word(code as u64) {
            Some(code) => Some(Self { code, index }),
            None => None,
        }
    }
}

values! {
    /// Status words of the guest interface. A call that does not exist returns all ones instead.
    RsiStatus {
        /// Done.
        Success = 0,
        /// An input value is wrong.
        Input = 1,
        /// The realm or REC is not in the state that the call needs.
        State = 2,
        /// More calls are needed.
        Incomplete = 3,
        /// Failed for another reason.
        Unknown = 4,
        /// The device is not in the state that the call needs, or the evidence is stale.
        Device = 5,
    }
}

/// The word that a guest call returns when it does not exist (SMCCC `NOT_SUPPORTED`).
pub const RSI_NOT_SUPPORTED: u64 = u64::MAX;

values! {
    /// Status words of the calls from guest to host.
    RhiStatus {
        /// Done.
        Success = 0,
        /// Begun; ask again with `DA_VDEV_CONTINUE`.
        Incomplete = 1,
        /// The host has no such object yet.
        DataNotAvailable = 2,
        /// No device with this id.
        InvalidVdevId = 3,
        /// No object with this id.
        InvalidObject = 4,
        /// An input value is wrong.
        Input = 5,
        /// The device or its state refused.
        Device = 6,
        /// The offset lies past the object's end.
        InvalidOffset = 7,
        /// The host could not reach the guest's buffer.
        AccessFailed = 8,
        /// Another operation is under way.
        Busy = 9,
        /// The operation to abort had completed.
        AbortedOperationHadCompleted = 10,
        /// The host does not keep objects of this kind.
        ObjectUnsupported = 11,
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryRequest, RhiStatus, RmiCode, RmiStatus, RsiStatus};
    use std::collections::HashSet;

    #[test]
    fn every_status_of_an_interface_has_its_own_number_and_comes_back() {
        for values in [RmiCode::VALUES, RsiStatus::VALUES, RhiStatus::VALUES] {
            let numbers: HashSet<u64> = values.iter().map(|value| value.number).collect();
            assert_eq!(numbers.len(), values.len());
        }
        assert_eq!(RmiCode::VALUES.len(), 17);
        assert_eq!(RsiStatus::VALUES.len(), 6);
        assert_eq!(RhiStatus::VALUES.len(), 12);
        for value in RmiCode::VALUES {
            for index in [0, 3, 255] {
                let word = value.number | index << 8;
                assert_eq!(RmiStatus::from_word(word).unwrap().word(), word);
            }
        }
        for value in RsiStatus::VALUES {
            assert_eq!(
                RsiStatus::from_word(value.number).unwrap().word(),
                value.number
            );
        }
        for value in RhiStatus::VALUES {
            assert_eq!(
                RhiStatus::from_word(value.number).unwrap().word(),
                value.number
            );
        }
    }

    #[test]
    fn a_word_that_is_no_status_is_refused() {
        assert_eq!(RmiStatus::from_word(17), None);
        assert_eq!(RmiStatus::from_word(1 << 16), None);
        assert_eq!(RmiStatus::from_word(u64::MAX), None);
        assert_eq!(RsiStatus::from_word(6), None);
    }

    #[test]
    fn an_incomplete_status_says_what_it_wants() {
        let status = RmiStatus::incomplete(MemoryRequest::Donate, true);
        assert_eq!(status.word(), 0x050d);
        assert_eq!(RmiStatus::rtt(2).word(), 0x0204);
    }
}
