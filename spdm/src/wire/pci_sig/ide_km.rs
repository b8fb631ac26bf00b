// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! IDE_KM version 1. Payloads include the protocol byte.
//!
//! Three byte orders meet here. AES-GCM takes the key as bytes b0 to b31. The wire carries eight
//! double words, most significant first: `Key_DW7` is the value `b0 b1 b2 b3` and, being little
//! endian, travels as b3 b2 b1 b0. Key slot registers of a root port begin with `Key_DW0`, which is
//! the value `b28 b29 b30 b31`. A random key hides a mistake until traffic flows.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Protocol;
use crate::wire::{Malformed, Reader, Writer};

/// Bytes of the longest message that a requester sends: KEY_PROG.
pub const MAX_REQUEST: usize = 2 + size_of::<StreamFields>() + 40;

/// An AES-256 key in the order in which AES takes it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct IdeKey([u8; 32]);

impl IdeKey {
    /// Takes a key in the order in which AES takes it.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Takes a key as KEY_PROG carries it.
    #[must_use]
    pub fn from_wire(wire: &[u8; 32]) -> Self {
        let mut key = Self(*wire);
        key.swap_dwords();
        key
    }

    /// Takes a key from the registers of a root port, `Key_DW0` first.
    #[must_use]
    pub fn from_registers(registers: &[u32; 8]) -> Self {
        let mut key = Self([0; 32]);
        for (bytes, register) in key.0.chunks_exact_mut(4).zip(registers.iter().rev()) {
            bytes.copy_from_slice(&register.to_be_bytes());
        }
        key
    }

    /// Returns the key in the order in which AES takes it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the key as the registers of a root port take it, `Key_DW0` first. The caller erases
    /// it.
    #[must_use]
    pub fn to_registers(&self) -> [u32; 8] {
        let mut registers = [0; 8];
        for (register, bytes) in registers.iter_mut().rev().zip(self.0.chunks_exact(4)) {
            // The chunks are four bytes long.
            *register = bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u32::from(*byte));
        }
        registers
    }

    /// Writes the key as KEY_PROG carries it.
    fn emit(&self, writer: &mut Writer<'_>) -> Result<(), Malformed> {
        let mut wire = Self(self.0);
        wire.swap_dwords();
        writer.put(&wire.0)
    }

    /// Turns AES order into wire order, and back.
    fn swap_dwords(&mut self) {
        self.0.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    }
}

/// The fixed half of an IDE initialization vector: the value of `IFV_DW1`, then of `IFV_DW0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ifv(pub u64);

impl Ifv {
    /// The value with which every key begins.
    pub const INITIAL: Self = Self(1);

    /// Returns the vector in the order in which AES-GCM takes it.
    #[must_use]
    pub fn to_iv(self) -> [u8; 12] {
        let [a, b, c, d, e, f, g, h] = self.0.to_be_bytes();
        [0, 0, 0, 0, a, b, c, d, e, f, g, h]
    }

    /// Returns the value as the registers of a root port take it, `IFV_DW0` first.
    #[must_use]
    pub fn to_registers(self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.0.to_be_bytes();
        [
            u32::from_be_bytes([e, f, g, h]),
            u32::from_be_bytes([a, b, c, d]),
        ]
    }

    /// Takes the value from the registers of a root port, `IFV_DW0` first.
    #[must_use]
    pub fn from_registers([low, high]: [u32; 2]) -> Self {
        Self(u64::from(high) << 32 | u64::from(low))
    }

    fn to_wire(self) -> [U32; 2] {
        let [low, high] = self.to_registers();
        [high.into(), low.into()]
    }

    fn from_wire([high, low]: [U32; 2]) -> Self {
        Self::from_registers([low.get(), high.get()])
    }
}

/// What kind of packets a key protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubStream {
    /// Posted requests.
    Posted,
    /// Non-posted requests.
    NonPosted,
    /// Completions.
    Completion,
}

/// Which way packets flow at the port that is programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The port opens them.
    Receive,
    /// The port seals them.
    Transmit,
}

/// Which of a stream's two sets of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySet {
    /// Set 0.
    K0,
    /// Set 1.
    K1,
}

/// Names one key of one stream at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// The stream.
    pub stream_id: u8,
    /// The set.
    pub key_set: KeySet,
    /// The direction.
    pub direction: Direction,
    /// The sub-stream.
    pub sub_stream: SubStream,
    /// The port inside the device; 0 for a device of one port.
    pub port_index: u8,
}

/// The fields of every message about a key, after the object id.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StreamFields {
    reserved: [u8; 2],
    stream_id: u8,
    /// KP_ACK: the status. Else reserved.
    status: u8,
    sub_stream: u8,
    port_index: u8,
}

impl KeySlot {
    fn to_fields(self, status: u8) -> StreamFields {
        let key_set = match self.key_set {
            KeySet::K0 => 0,
            KeySet::K1 => 1,
        };
        let direction = match self.direction {
            Direction::Receive => 0,
            Direction::Transmit => 2,
        };
        let sub_stream = match self.sub_stream {
            SubStream::Posted => 0,
            SubStream::NonPosted => 0x10,
            SubStream::Completion => 0x20,
        };
        StreamFields {
            reserved: [0; 2],
            stream_id: self.stream_id,
            status,
            sub_stream: key_set | direction | sub_stream,
            port_index: self.port_index,
        }
    }

    fn from_fields(fields: &StreamFields) -> Result<Self, Malformed> {
        Ok(Self {
            stream_id: fields.stream_id,
            key_set: if fields.sub_stream & 1 == 0 {
                KeySet::K0
            } else {
                KeySet::K1
            },
            direction: if fields.sub_stream & 2 == 0 {
                Direction::Receive
            } else {
                Direction::Transmit
            },
            sub_stream: match fields.sub_stream >> 4 {
                0 => SubStream::Posted,
                1 => SubStream::NonPosted,
                2 => SubStream::Completion,
                _ => return Err(Malformed::Value),
            },
            port_index: fields.port_index,
        })
    }
}

/// How a port took a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStatus(pub u8);

impl KeyStatus {
    /// The key is in place.
    pub const SUCCESS: Self = Self(0);
    /// The message has a wrong length.
    pub const INCORRECT_LENGTH: Self = Self(1);
    /// There is no such port.
    pub const UNSUPPORTED_PORT: Self = Self(2);
    /// A field has a value that the port does not support.
    pub const UNSUPPORTED_VALUE: Self = Self(3);
    /// No reason given.
    pub const UNSPECIFIED: Self = Self(4);
}

/// What a port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryResponse<'a> {
    /// The port asked about.
    pub port_index: u8,
    /// Device in bits 7:3, function in bits 2:0.
    pub device_function: u8,
    /// Bus.
    pub bus: u8,
    /// Segment.
    pub segment: u8,
    /// The last port.
    pub max_port_index: u8,
    /// The IDE extended capability, from its capability register on.
    pub registers: &'a [U32],
}

/// One IDE_KM message.
pub enum Message<'a> {
    /// Asks for the registers of a port.
    Query {
        /// The port.
        port_index: u8,
    },
    /// Answers that.
    QueryResponse(QueryResponse<'a>),
    /// Gives a port a key.
    KeyProg {
        /// Which key.
        slot: KeySlot,
        /// The key.
        key: IdeKey,
        /// What the initialization vector begins with.
        ifv: Ifv,
    },
    /// Answers that.
    KeyProgAck {
        /// Which key.
        slot: KeySlot,
        /// How it went.
        status: KeyStatus,
    },
    /// Puts a key to use.
    KeySetGo(KeySlot),
    /// Stops using a key.
    KeySetStop(KeySlot),
    /// Answers either.
    KeyGoStopAck(KeySlot),
}

impl<'a> Message<'a> {
    /// Takes the payload of a vendor-defined message apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Code`] for another protocol or an unknown object.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let [protocol, object] = *reader.read::<[u8; 2]>()?;
        if Protocol(protocol) != Protocol::IDE_KM {
            return Err(Malformed::Code);
        }
        let message = match object {
            0 => {
                let [_reserved, port_index] = *reader.read::<[u8; 2]>()?;
                Self::Query { port_index }
            }
            1 => Self::parse_query_response(&mut reader)?,
            _ => Self::parse_key_message(object, &mut reader)?,
        };
        if reader.rest().is_empty() {
            Ok(message)
        } else {
            Err(Malformed::Length)
        }
    }

    fn parse_query_response(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let fields = reader.read::<[u8; 6]>()?;
        let [
            _reserved,
            port_index,
            device_function,
            bus,
            segment,
            max_port_index,
        ] = *fields;
        let registers = reader.read_list(reader.rest().len() / 4)?;
        Ok(Self::QueryResponse(QueryResponse {
            port_index,
            device_function,
            bus,
            segment,
            max_port_index,
            registers,
        }))
    }

    fn parse_key_message(object: u8, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let fields = reader.read::<StreamFields>()?;
        let slot = KeySlot::from_fields(fields)?;
        Ok(match object {
            2 => {
                let key = IdeKey::from_wire(reader.read()?);
                let ifv = Ifv::from_wire(*reader.read()?);
                Self::KeyProg { slot, key, ifv }
            }
            3 => Self::KeyProgAck {
                slot,
                status: KeyStatus(fields.status),
            },
            4 => Self::KeySetGo(slot),
            5 => Self::KeySetStop(slot),
            6 => Self::KeyGoStopAck(slot),
            _ => return Err(Malformed::Code),
        })
    }

    /// Writes the payload of a vendor-defined message and returns its length. A KEY_PROG in `out`
    /// is the caller's to erase.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        let mut begin = |object| writer.put(&[Protocol::IDE_KM.0, object]);
        match self {
            Self::Query { port_index } => {
                begin(0)?;
                writer.put(&[0, *port_index])?;
            }
            Self::QueryResponse(response) => {
                begin(1)?;
                writer.put(&[
                    0,
                    response.port_index,
                    response.device_function,
                    response.bus,
                    response.segment,
                    response.max_port_index,
                ])?;
                writer.write(response.registers)?;
            }
            Self::KeyProg { slot, key, ifv } => {
                begin(2)?;
                writer.write(&slot.to_fields(0))?;
                key.emit(&mut writer)?;
                writer.write(&ifv.to_wire())?;
            }
            Self::KeyProgAck { slot, status } => {
                begin(3)?;
                writer.write(&slot.to_fields(status.0))?;
            }
            Self::KeySetGo(slot) => {
                begin(4)?;
                writer.write(&slot.to_fields(0))?;
            }
            Self::KeySetStop(slot) => {
                begin(5)?;
                writer.write(&slot.to_fields(0))?;
            }
            Self::KeyGoStopAck(slot) => {
                begin(6)?;
                writer.write(&slot.to_fields(0))?;
            }
        }
        Ok(writer.written())
    }
}
