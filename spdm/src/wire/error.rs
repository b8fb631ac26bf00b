// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ERROR.

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
}

impl ErrorResponse {
    /// Takes the message apart, leaving extended data, if any.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let header = Reader::new(message).read::<Header>()?;
        if header.code != Code::ERROR {
            return Err(Malformed::Code);
        }
        let code = ErrorCode(header.param1);
        Ok(Self {
            version: header.version,
            code,
            data: header.param2,
        })
    }

    /// Writes the message, without extended data, and returns its length.
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
        Ok(writer.written())
    }
}
