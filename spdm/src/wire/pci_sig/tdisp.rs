// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TDISP version 1.0. Payloads include the protocol byte.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Protocol;
use crate::wire::{Malformed, NONCE_LENGTH, Reader, Writer};

/// TDISP version 1.0.
pub const VERSION_1_0: u8 = 0x10;
/// Bytes before the body of a message: the protocol byte and the header.
pub const HEADER_LENGTH: usize = 1 + size_of::<FixedHeader>();
/// Bytes of the longest message that a requester sends: START_INTERFACE.
pub const MAX_REQUEST: usize = HEADER_LENGTH + NONCE_LENGTH;
/// Most ranges that a report may hold: six BARs cut into ten pieces each.
pub const MAX_RANGES: usize = 64;

/// The interface a message is about: a function of the device.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct InterfaceId {
    function: U32,
    reserved: U64,
}

impl InterfaceId {
    /// Names the function with requester id `rid` in segment 0.
    #[must_use]
    pub fn new(rid: u16) -> Self {
        Self {
            function: u32::from(rid).into(),
            reserved: U64::ZERO,
        }
    }

    /// Returns the function id: requester id in bits 15:0, segment in bits 23:16, bit 24 set if
    /// the segment counts.
    #[must_use]
    pub fn function(&self) -> u32 {
        self.function.get()
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct FixedHeader {
    version: u8,
    kind: u8,
    reserved: U16,
    interface: InterfaceId,
}

/// State of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// The configuration can be changed.
    ConfigUnlocked,
    /// The configuration is frozen; no trusted traffic yet.
    ConfigLocked,
    /// Trusted traffic flows.
    Run,
    /// Something changed that must not.
    Error,
}

impl InterfaceState {
    const ALL: [Self; 4] = [
        Self::ConfigUnlocked,
        Self::ConfigLocked,
        Self::Run,
        Self::Error,
    ];

    /// Returns the state with this number on the wire.
    ///
    /// # Errors
    /// [`Malformed::Value`].
    pub fn from_wire(value: u8) -> Result<Self, Malformed> {
        Self::ALL
            .get(usize::from(value))
            .copied()
            .ok_or(Malformed::Value)
    }

    /// Returns the number of the state on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::ConfigUnlocked => 0,
            Self::ConfigLocked => 1,
            Self::Run => 2,
            Self::Error => 3,
        }
    }
}

/// What a lock demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockFlags(pub u16);

impl LockFlags {
    /// No firmware update while locked.
    pub const NO_FIRMWARE_UPDATE: Self = Self(0x1);
    /// The system's cache line size is 128 bytes.
    pub const CACHE_LINE_128: Self = Self(0x2);
    /// The MSI-X table and pending bits are locked too.
    pub const LOCK_MSIX: Self = Self(0x4);
    /// Peer-to-peer streams will be bound.
    pub const BIND_P2P: Self = Self(0x8);
    /// All requests are redirected to the root complex.
    pub const ALL_REQUEST_REDIRECT: Self = Self(0x10);
}

/// Body of LOCK_INTERFACE.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LockRequest {
    flags: U16,
    /// The default stream of the interface.
    pub stream_id: u8,
    reserved: u8,
    /// Added to the addresses in the report.
    pub mmio_reporting_offset: U64,
    /// Address bits of peer-to-peer requests.
    pub bind_p2p_address_mask: U64,
}

impl LockRequest {
    /// Makes the body, with no peer-to-peer addresses.
    #[must_use]
    pub fn new(flags: LockFlags, stream_id: u8, mmio_reporting_offset: u64) -> Self {
        Self {
            flags: flags.0.into(),
            stream_id,
            reserved: 0,
            mmio_reporting_offset: mmio_reporting_offset.into(),
            bind_p2p_address_mask: U64::ZERO,
        }
    }

    /// Returns what is demanded.
    #[must_use]
    pub fn flags(&self) -> LockFlags {
        LockFlags(self.flags.get())
    }
}

/// Body of the answer to GET_CAPABILITIES.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DeviceCapabilities {
    /// Capabilities of the device's security manager.
    pub dsm: U32,
    /// Bit n: the request with code 0x80 + n is understood.
    pub requests: [u8; 16],
    lock_flags: U16,
    reserved: [u8; 3],
    /// Bits of an address.
    pub address_width: u8,
    /// Requests that one interface takes at a time.
    pub requests_this: u8,
    /// Requests that all interfaces take at a time.
    pub requests_all: u8,
}

impl DeviceCapabilities {
    /// Makes the body for a device that takes one request at a time.
    #[must_use]
    pub fn new(requests: [u8; 16], lock_flags: LockFlags, address_width: u8) -> Self {
        Self {
            dsm: U32::ZERO,
            requests,
            lock_flags: lock_flags.0.into(),
            reserved: [0; 3],
            address_width,
            requests_this: 1,
            requests_all: 1,
        }
    }

    /// Returns the demands of a lock that the device can meet.
    #[must_use]
    pub fn lock_flags(&self) -> LockFlags {
        LockFlags(self.lock_flags.get())
    }
}

/// Why a device refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdispError(pub u32);

macro_rules! tdisp_errors {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl TdispError {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }
    };
}

tdisp_errors! {
    /// A field of the request is wrong.
    INVALID_REQUEST = 0x1,
    /// Ask again later.
    BUSY = 0x3,
    /// The interface is in the wrong state.
    INVALID_INTERFACE_STATE = 0x4,
    /// No reason given.
    UNSPECIFIED = 0x5,
    /// The request is not known; the data is its type.
    UNSUPPORTED_REQUEST = 0x7,
    /// The request is of another version.
    VERSION_MISMATCH = 0x41,
    /// There is no such interface.
    INVALID_INTERFACE = 0x101,
    /// The nonce is not that of the lock.
    INVALID_NONCE = 0x102,
    /// No nonce could be made.
    INSUFFICIENT_ENTROPY = 0x103,
    /// The configuration cannot be locked.
    INVALID_DEVICE_CONFIGURATION = 0x104,
}

/// The nonce of a lock.
pub type StartNonce = [u8; NONCE_LENGTH];

/// What a message says, after its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Asks for versions.
    GetVersion,
    /// Answers that.
    Version(&'a [u8]),
    /// Asks for capabilities; the field holds those of the TSM.
    GetCapabilities(u32),
    /// Answers that.
    Capabilities(DeviceCapabilities),
    /// Freezes the configuration.
    Lock(LockRequest),
    /// Answers that.
    Locked(StartNonce),
    /// Asks for a part of the report.
    GetReport {
        /// First byte.
        offset: u16,
        /// Most bytes.
        length: u16,
    },
    /// Answers that.
    Report {
        /// The part.
        portion: &'a [u8],
        /// Bytes that follow.
        remainder: u16,
    },
    /// Asks for the state.
    GetState,
    /// Answers that.
    State(InterfaceState),
    /// Starts trusted traffic.
    Start(StartNonce),
    /// Answers that.
    Started,
    /// Gives the interface back.
    Stop,
    /// Answers that.
    Stopped,
    /// Refuses.
    Error {
        /// Why.
        code: TdispError,
        /// More about it.
        data: u32,
    },
    /// A message that this crate does not know, for the side that answers.
    Unknown(u8),
}

/// One TDISP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Version; not checked, as a device answers a wrong one with an error of its own.
    pub version: u8,
    /// The interface.
    pub interface: InterfaceId,
    /// The rest.
    pub body: Body<'a>,
}

impl<'a> Message<'a> {
    /// Makes a message of version 1.0.
    #[must_use]
    pub const fn new(interface: InterfaceId, body: Body<'a>) -> Self {
        Self {
            version: VERSION_1_0,
            interface,
            body,
        }
    }

    /// Takes the payload of a vendor-defined message apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Code`] for another protocol.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if Protocol(*reader.read::<u8>()?) != Protocol::TDISP {
            return Err(Malformed::Code);
        }
        let header = reader.read::<FixedHeader>()?;
        let body = Body::parse(header.kind, &mut reader)?;
        // An error may carry extended data, and the body of an unknown message is not known.
        let open = matches!(body, Body::Error { .. } | Body::Unknown(_));
        if !open && !reader.rest().is_empty() {
            return Err(Malformed::Length);
        }
        Ok(Self {
            version: header.version,
            interface: header.interface,
            body,
        })
    }

    /// Writes the payload of a vendor-defined message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.put(&[Protocol::TDISP.0])?;
        writer.write(&FixedHeader {
            version: self.version,
            kind: self.body.kind(),
            reserved: U16::ZERO,
            interface: self.interface,
        })?;
        self.body.emit(&mut writer)?;
        Ok(writer.written())
    }
}

impl<'a> Body<'a> {
    /// Returns the code of the message.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Version(_) => 0x01,
            Self::Capabilities(_) => 0x02,
            Self::Locked(_) => 0x03,
            Self::Report { .. } => 0x04,
            Self::State(_) => 0x05,
            Self::Started => 0x06,
            Self::Stopped => 0x07,
            Self::Error { .. } => 0x7f,
            Self::GetVersion => 0x81,
            Self::GetCapabilities(_) => 0x82,
            Self::Lock(_) => 0x83,
            Self::GetReport { .. } => 0x84,
            Self::GetState => 0x85,
            Self::Start(_) => 0x86,
            Self::Stop => 0x87,
            Self::Unknown(kind) => *kind,
        }
    }

    fn parse(kind: u8, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match kind {
            0x01 => {
                let count = *reader.read::<u8>()?;
                Self::Version(reader.take(usize::from(count))?)
            }
            0x02 => Self::Capabilities(*reader.read()?),
            0x03 => Self::Locked(*reader.read()?),
            0x04 => {
                let [length, remainder] = *reader.read::<[U16; 2]>()?;
                let portion = reader.take(usize::from(length.get()))?;
                Self::Report {
                    portion,
                    remainder: remainder.get(),
                }
            }
            0x05 => Self::State(InterfaceState::from_wire(*reader.read()?)?),
            0x06 => Self::Started,
            0x07 => Self::Stopped,
            0x7f => {
                let [code, data] = *reader.read::<[U32; 2]>()?;
                Self::Error {
                    code: TdispError(code.get()),
                    data: data.get(),
                }
            }
            0x81 => Self::GetVersion,
            0x82 => Self::GetCapabilities(reader.read::<U32>()?.get()),
            0x83 => Self::Lock(*reader.read()?),
            0x84 => {
                let [offset, length] = *reader.read::<[U16; 2]>()?;
                Self::GetReport {
                    offset: offset.get(),
                    length: length.get(),
                }
            }
            0x85 => Self::GetState,
            0x86 => Self::Start(*reader.read()?),
            0x87 => Self::Stop,
            kind => Self::Unknown(kind),
        })
    }

    fn emit(&self, writer: &mut Writer<'_>) -> Result<(), Malformed> {
        match self {
            Self::Version(versions) => {
                let count = u8::try_from(versions.len()).map_err(|_| Malformed::Length)?;
                writer.put(&[count])?;
                writer.put(versions)
            }
            Self::Capabilities(capabilities) => writer.write(capabilities),
            Self::Locked(nonce) | Self::Start(nonce) => writer.write(nonce),
            Self::Report { portion, remainder } => {
                let length = crate::wire::length16(portion.len())?;
                writer.write(&[length, (*remainder).into()])?;
                writer.put(portion)
            }
            Self::State(state) => writer.put(&[state.to_wire()]),
            Self::Error { code, data } => writer.write(&[U32::new(code.0), U32::new(*data)]),
            Self::GetCapabilities(tsm) => writer.write(&U32::new(*tsm)),
            Self::Lock(lock) => writer.write(lock),
            Self::GetReport { offset, length } => {
                writer.write(&[U16::new(*offset), U16::new(*length)])
            }
            Self::GetVersion
            | Self::GetState
            | Self::Started
            | Self::Stop
            | Self::Stopped
            | Self::Unknown(_) => Ok(()),
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ReportFixed {
    interface_info: U16,
    reserved: U16,
    msix_control: U16,
    lnr_control: U16,
    tph_control: U32,
    range_count: U32,
}

/// Attribute of a range: it holds the MSI-X table.
pub const RANGE_MSIX_TABLE: u16 = 1;
/// Attribute of a range: it holds the MSI-X pending bits.
pub const RANGE_MSIX_PBA: u16 = 2;
/// Attribute of a range: it is not for trusted access.
pub const RANGE_NON_TEE: u16 = 4;
/// Attribute of a range: its attributes can be changed.
pub const RANGE_UPDATABLE: u16 = 8;

/// One range of MMIO that belongs to the interface.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ReportRange {
    /// Number of the first 4 KiB page, with the reporting offset added.
    pub first_page: U64,
    /// Number of pages.
    pub pages: U32,
    /// Attributes.
    pub attributes: U16,
    /// Number of the range; the BAR it is in.
    pub id: U16,
}

/// The report of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceReport<'a> {
    /// Bit 0 no update after lock, 1 DMA without PASID, 2 with PASID, 3 ATS, 4 PRS.
    pub interface_info: u16,
    /// The message control register of MSI-X.
    pub msix_control: u16,
    /// The LNR control register.
    pub lnr_control: u16,
    /// The TPH requester control register.
    pub tph_control: u32,
    /// Ranges of MMIO, at most [`MAX_RANGES`].
    pub ranges: &'a [ReportRange],
    /// What the device adds.
    pub device_specific: &'a [u8],
}

impl<'a> InterfaceReport<'a> {
    /// Takes a whole report apart.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Value`] for a range that is empty or wraps.
    pub fn parse(report: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(report);
        let fixed = reader.read::<ReportFixed>()?;
        let count = usize::try_from(fixed.range_count.get()).map_err(|_| Malformed::Length)?;
        if count > MAX_RANGES {
            return Err(Malformed::Length);
        }
        let ranges = reader.read_list::<ReportRange>(count)?;
        for range in ranges {
            let end = range.first_page.get().checked_add(range.pages.get().into());
            // A page number whose address does not fit 64 bits names no page.
            if range.pages.get() == 0 || end.is_none_or(|end| end > 1 << 52) {
                return Err(Malformed::Value);
            }
        }
        let length = usize::try_from(reader.read::<U32>()?.get()).map_err(|_| Malformed::Length)?;
        let device_specific = reader.take(length)?;
        if !reader.rest().is_empty() {
            return Err(Malformed::Length);
        }
        Ok(Self {
            interface_info: fixed.interface_info.get(),
            msix_control: fixed.msix_control.get(),
            lnr_control: fixed.lnr_control.get(),
            tph_control: fixed.tph_control.get(),
            ranges,
            device_specific,
        })
    }

    /// Writes the report and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`] or [`Malformed::Length`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let count = u32::try_from(self.ranges.len()).map_err(|_| Malformed::Length)?;
        let length = u32::try_from(self.device_specific.len()).map_err(|_| Malformed::Length)?;
        let mut writer = Writer::new(out);
        writer.write(&ReportFixed {
            interface_info: self.interface_info.into(),
            reserved: U16::ZERO,
            msix_control: self.msix_control.into(),
            lnr_control: self.lnr_control.into(),
            tph_control: self.tph_control.into(),
            range_count: count.into(),
        })?;
        writer.write(self.ranges)?;
        writer.write(&U32::new(length))?;
        writer.put(self.device_specific)?;
        Ok(writer.written())
    }
}
