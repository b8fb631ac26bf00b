// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key configuration unit of the root ports.

use tsm_platform::PlatformError;

/// Programs a key of a root port.
pub fn key_program(
    _ecam: u64,
    _port: u16,
    _info: u64,
    _key: &[u8; 32],
    _iv: u64,
) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Starts using a key of a root port.
pub fn key_go(_ecam: u64, _port: u16, _info: u64) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Stops using a key of a root port and forgets it.
pub fn key_stop(_ecam: u64, _port: u16, _info: u64) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Writes a register pair of a stream of a root port.
pub fn stream_write(
    _ecam: u64,
    _port: u16,
    _register: u64,
    _words: [u64; 2],
) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Reads a register pair of a stream of a root port.
pub fn stream_read(_ecam: u64, _port: u16, _register: u64) -> Result<[u64; 2], PlatformError> {
    Err(PlatformError::Unsupported)
}

/// Disables a stream of a root port and clears its registers.
pub fn stream_clear(_ecam: u64, _port: u16, _stream: u8) -> Result<(), PlatformError> {
    Err(PlatformError::Unsupported)
}
