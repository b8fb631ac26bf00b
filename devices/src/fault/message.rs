// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Names of messages, as their standards spell them.

use std::fmt;

/// Who defines a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// DSP0274.
    Spdm,
    /// IDE_KM, PCIe 6.33.
    IdeKm,
    /// TDISP, PCIe 11.
    Tdisp,
    /// Any message of a kind.
    Any,
}

/// A kind of message that a fault can wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message {
    layer: Layer,
    code: u8,
}

macro_rules! messages {
    ($($layer:ident { $($name:ident = $code:literal,)* })*) => {
        impl Message {
            $($(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self { layer: Layer::$layer, code: $code };
            )*)*

            /// Every message with its name.
            pub const ALL: &[(&str, Self)] = &[$($((stringify!($name), Self::$name),)*)*];
        }
    };
}

messages! {
    Spdm {
        GET_DIGESTS = 0x81,
        GET_CERTIFICATE = 0x82,
        CHALLENGE = 0x83,
        GET_VERSION = 0x84,
        CHUNK_SEND = 0x85,
        CHUNK_GET = 0x86,
        GET_MEASUREMENTS = 0xe0,
        GET_CAPABILITIES = 0xe1,
        NEGOTIATE_ALGORITHMS = 0xe3,
        KEY_EXCHANGE = 0xe4,
        FINISH = 0xe5,
        PSK_EXCHANGE = 0xe6,
        PSK_FINISH = 0xe7,
        HEARTBEAT = 0xe8,
        KEY_UPDATE = 0xe9,
        END_SESSION = 0xec,
        VENDOR_DEFINED_REQUEST = 0xfe,
        RESPOND_IF_READY = 0xff,
        DIGESTS = 0x01,
        CERTIFICATE = 0x02,
        CHALLENGE_AUTH = 0x03,
        VERSION = 0x04,
        CHUNK_SEND_ACK = 0x05,
        CHUNK_RESPONSE = 0x06,
        MEASUREMENTS = 0x60,
        CAPABILITIES = 0x61,
        ALGORITHMS = 0x63,
        KEY_EXCHANGE_RSP = 0x64,
        FINISH_RSP = 0x65,
        HEARTBEAT_ACK = 0x68,
        KEY_UPDATE_ACK = 0x69,
        END_SESSION_ACK = 0x6c,
        VENDOR_DEFINED_RESPONSE = 0x7e,
        ERROR = 0x7f,
    }
    IdeKm {
        QUERY = 0,
        QUERY_RESP = 1,
        KEY_PROG = 2,
        KP_ACK = 3,
        K_SET_GO = 4,
        K_SET_STOP = 5,
        K_GOSTOP_ACK = 6,
    }
    Tdisp {
        GET_TDISP_VERSION = 0x81,
        GET_TDISP_CAPABILITIES = 0x82,
        LOCK_INTERFACE_REQUEST = 0x83,
        GET_DEVICE_INTERFACE_REPORT = 0x84,
        GET_DEVICE_INTERFACE_STATE = 0x85,
        START_INTERFACE_REQUEST = 0x86,
        STOP_INTERFACE_REQUEST = 0x87,
        BIND_P2P_STREAM_REQUEST = 0x88,
        UNBIND_P2P_STREAM_REQUEST = 0x89,
        SET_MMIO_ATTRIBUTE_REQUEST = 0x8a,
        VDM_REQUEST = 0x8b,
        TDISP_VERSION = 0x01,
        TDISP_CAPABILITIES = 0x02,
        LOCK_INTERFACE_RESPONSE = 0x03,
        DEVICE_INTERFACE_REPORT = 0x04,
        DEVICE_INTERFACE_STATE = 0x05,
        START_INTERFACE_RESPONSE = 0x06,
        STOP_INTERFACE_RESPONSE = 0x07,
        TDISP_ERROR = 0x7f,
    }
    Any {
        ANY_REQUEST = 0x80,
        ANY_RESPONSE = 0,
        SECURED_REQUEST = 0x81,
        SECURED_RESPONSE = 0x01,
    }
}

/// Bit that tells a request from a response in SPDM and TDISP.
const REQUEST: u8 = 0x80;
/// Bytes of a vendor-defined message of PCI-SIG before its payload; in the large form of SPDM 1.4.
const VENDOR_HEADER: usize = 11;
const LARGE_VENDOR_HEADER: usize = 15;
/// Bit of the first parameter that tells the large form.
const LARGE: u8 = 0x80;
/// First byte of a payload.
const IDE_KM: u8 = 0;
const TDISP: u8 = 1;

impl Message {
    /// Returns the message with the standard's `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, message)| *message)
    }

    /// Returns the standard's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, message)| *message == self)
            .map_or("?", |(name, _)| name)
    }

    /// Returns whether a requester sends it.
    #[must_use]
    pub fn is_request(self) -> bool {
        match self.layer {
            Layer::IdeKm => matches!(
                self,
                Self::QUERY | Self::KEY_PROG | Self::K_SET_GO | Self::K_SET_STOP
            ),
            _ => self.code & REQUEST != 0,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What a plain message is, and where the parts of it begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// As SPDM names it.
    pub(super) spdm: Message,
    /// As IDE_KM or TDISP names it, and the offset of that message behind the protocol byte.
    pub(super) inner: Option<(Message, usize)>,
    /// Whether it travels in a session.
    pub(super) secured: bool,
    /// The function that a TDISP message is about.
    pub(super) interface: Option<u16>,
}

impl Known {
    /// Looks at a plain message. `None` for one that is too short to have a name.
    pub(super) fn of(message: &[u8], secured: bool) -> Option<Self> {
        let [_, code, param1, ..] = *message else {
            return None;
        };
        let spdm = Message {
            layer: Layer::Spdm,
            code,
        };
        let mut known = Self {
            spdm,
            inner: None,
            secured,
            interface: None,
        };
        if code | REQUEST == Message::VENDOR_DEFINED_REQUEST.code {
            let start = if param1 & LARGE == 0 {
                VENDOR_HEADER
            } else {
                LARGE_VENDOR_HEADER
            };
            known.look_inside(message.get(start..).unwrap_or_default(), start + 1);
        }
        Some(known)
    }

    fn look_inside(&mut self, payload: &[u8], start: usize) {
        match *payload {
            [IDE_KM, code, ..] => {
                let layer = Layer::IdeKm;
                self.inner = Some((Message { layer, code }, start));
            }
            [TDISP, _, code, _, _, low, high, ..] => {
                let layer = Layer::Tdisp;
                self.inner = Some((Message { layer, code }, start));
                self.interface = Some(u16::from_le_bytes([low, high]));
            }
            _ => {}
        }
    }

    /// Returns the offset at which the message that `name` means begins, if it is this one.
    pub(super) fn offset_of(&self, name: Message) -> Option<usize> {
        let request = self.spdm.is_request();
        let is = match name {
            Message::ANY_REQUEST => request,
            Message::ANY_RESPONSE => !request,
            Message::SECURED_REQUEST => request && self.secured,
            Message::SECURED_RESPONSE => !request && self.secured,
            name => name == self.spdm,
        };
        if is {
            return Some(0);
        }
        self.inner
            .filter(|(inner, _)| *inner == name)
            .map(|(_, start)| start)
    }

    /// Returns the most precise name.
    pub(super) fn name(&self) -> Message {
        self.inner.map_or(self.spdm, |(inner, _)| inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, Message};

    #[test]
    fn every_name_names_one_message_and_the_way_back_is_the_same() {
        for (name, message) in Message::ALL {
            assert_eq!(Message::named(name), Some(*message));
            assert_eq!(message.name(), *name);
        }
        assert_eq!(Message::named("LOCK"), None);
    }

    #[test]
    fn a_vendor_message_is_known_by_both_names() {
        let mut lock = vec![0x12, 0xfe, 0, 0, 3, 0, 2, 1, 0, 21, 0, 1, 0x10, 0x83, 0, 0];
        lock.extend([0x08, 0x01, 0, 0]);
        let known = Known::of(&lock, true).unwrap();
        assert_eq!(known.name(), Message::LOCK_INTERFACE_REQUEST);
        assert_eq!(known.interface, Some(0x108));
        assert_eq!(known.offset_of(Message::LOCK_INTERFACE_REQUEST), Some(12));
        for whole in [Message::VENDOR_DEFINED_REQUEST, Message::SECURED_REQUEST] {
            assert_eq!(known.offset_of(whole), Some(0));
        }
        assert_eq!(known.offset_of(Message::ANY_RESPONSE), None);
        // CHALLENGE has the same code as the lock, in another protocol.
        assert_eq!(known.offset_of(Message::CHALLENGE), None);
    }

    #[test]
    fn a_large_vendor_message_is_known_too() {
        let mut ack = vec![0x14, 0x7e, 0x80, 0, 3, 0, 2, 1, 0, 0x90, 0xc5, 8, 0, 0, 0];
        ack.extend([0, 3, 0, 0, 5, 0, 0, 0]);
        let known = Known::of(&ack, true).unwrap();
        assert_eq!(known.offset_of(Message::KP_ACK), Some(16));
    }

    #[test]
    fn requests_are_told_from_responses() {
        assert!(Message::KEY_PROG.is_request() && !Message::KP_ACK.is_request());
        assert!(Message::STOP_INTERFACE_REQUEST.is_request());
        assert!(!Message::TDISP_ERROR.is_request() && !Message::VERSION.is_request());
    }
}
