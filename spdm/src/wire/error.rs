// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ERROR.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Code, Header, Malformed, Reader, Version, Writer};

/// Why a responder refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u8);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }
    };
}

error_codes! {
    /// A field of the request is wrong.
    INVALID_REQUEST = 0x01,
    /// The session does not exist.
    INVALID_SESSION = 0x02,
    /// Ask again later.
    BUSY = 0x03,
    /// The request is out of order.
    UNEXPECTED_REQUEST = 0x04,
    /// No reason given.
    UNSPECIFIED = 0x05,
    /// A record could not be opened.
    DECRYPT_ERROR = 0x06,
    /// The request is not known; the data is its code.
    UNSUPPORTED_REQUEST = 0x07,
    /// No more sessions.
    SESSION_LIMIT_EXCEEDED = 0x0a,
    /// The request needs a session.
    SESSION_REQUIRED = 0x0b,
    /// The answer does not fit the requester's buffer.
    RESPONSE_TOO_LARGE = 0x0d,
    /// The answer has to be fetched in chunks.
    LARGE_RESPONSE = 0x0f,
    /// The request is of another version.
    VERSION_MISMATCH = 0x41,
    /// The answer can be asked for later.
    RESPONSE_NOT_READY = 0x42,
    /// Begin again with GET_VERSION.
    REQUEST_RESYNCH = 0x43,
    /// The request is in order and could not be carried out.
    OPERATION_FAILED = 0x44,
    /// The request is of a vendor's or another body's, and so is the reason.
    VENDOR_DEFINED = 0xff,
}

impl ErrorCode {
    /// Returns whether this is about a request alone: the session that it came in is none the worse
    /// for it.
    #[must_use]
    pub const fn is_about_request(self) -> bool {
        matches!(
            self,
            Self::INVALID_REQUEST
                | Self::UNEXPECTED_REQUEST
                | Self::UNSPECIFIED
                | Self::UNSUPPORTED_REQUEST
                | Self::RESPONSE_TOO_LARGE
                | Self::OPERATION_FAILED
                | Self::VENDOR_DEFINED
        )
    }
}

/// What ERROR says beyond its code, if this requester acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// Nothing.
    Nothing,
    /// With [`ErrorCode::LARGE_RESPONSE`]: the handle of the answer.
    Large {
        /// Names the answer in CHUNK_GET.
        handle: u8,
    },
    /// With [`ErrorCode::RESPONSE_NOT_READY`]: when to ask for the answer.
    NotReady(NotReady),
}

/// When to ask again for an answer, and by which token.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NotReady {
    /// The answer is ready after 2^this microseconds. Bound it before shifting.
    pub exponent: u8,
    /// The request that is to be answered.
    pub request: Code,
    /// Names the answer in RESPOND_IF_READY.
    pub token: u8,
    /// After that time multiplied by this the answer is dropped.
    pub multiplier: u8,
}

/// ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// SPDM version of the message: 1.0 in answer to GET_VERSION.
    pub version: Version,
    /// Why.
    pub code: ErrorCode,
    /// More about it; its meaning is the code's.
    pub data: u8,
    /// What follows.
    pub extended: Extended,
}

impl ErrorResponse {
    /// Takes the message apart, leaving extended data that nothing is known of.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message);
        let header = reader.read::<Header>()?;
        if header.code != Code::ERROR {
            return Err(Malformed::Code);
        }
        let code = ErrorCode(header.param1);
        let extended = match code {
            ErrorCode::LARGE_RESPONSE => Extended::Large {
                handle: *reader.read::<u8>()?,
            },
            ErrorCode::RESPONSE_NOT_READY => Extended::NotReady(*reader.read::<NotReady>()?),
            _ => Extended::Nothing,
        };
        Ok(Self {
            version: header.version,
            code,
            data: header.param2,
            extended,
        })
    }

    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed::NoRoom`].
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(out);
        writer.write(&Header {
            version: self.version,
            code: Code::ERROR,
            param1: self.code.0,
            param2: self.data,
        })?;
        match &self.extended {
            Extended::Nothing => {}
            Extended::Large { handle } => writer.put(&[*handle])?,
            Extended::NotReady(not_ready) => writer.write(not_ready)?,
        }
        Ok(writer.written())
    }
}
