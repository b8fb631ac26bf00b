// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Opaque data in format 1, and what secured messages put there (DSP0277): their version.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Malformed, Reader, Writer};

/// Versions of DSP0277 that frame records in the same way: 1.0, 1.1 and 1.2.
pub const SECURED_VERSIONS: [u16; 3] = [0x1000, 0x1100, 0x1200];

const REGISTRY_DMTF: u8 = 0;
const DATA_VERSION: u8 = 1;
const ID_VERSION_SELECTION: u8 = 0;
const ID_SUPPORTED_VERSIONS: u8 = 1;
/// A list has few elements; more are refused rather than walked.
const MAX_ELEMENTS: u8 = 8;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ListHeader {
    count: u8,
    reserved: [u8; 3],
}

/// Finds the element of secured messages with `id` and returns its data after the id.
fn find(opaque: &[u8], id: u8) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(opaque);
    let count = reader.read::<ListHeader>()?.count;
    if count > MAX_ELEMENTS {
        return Err(Malformed::Length);
    }
    for _ in 0..count {
        let [registry, vendor_length] = *reader.read::<[u8; 2]>()?;
        reader.take(usize::from(vendor_length))?;
        let length = usize::from(reader.read::<U16>()?.get());
        let data = reader.take(length)?;
        if registry == REGISTRY_DMTF
            && let [DATA_VERSION, found, rest @ ..] = data
            && *found == id
        {
            return Ok(rest);
        }
        // Elements are padded to four bytes; an element at the end may come without.
        let padding = reader.used().wrapping_neg() % 4;
        reader.take(padding.min(reader.rest().len()))?;
    }
    Err(Malformed::Value)
}

/// Writes the requester's list of supported versions of secured messages and returns its length.
///
/// # Errors
/// [`Malformed::NoRoom`] or [`Malformed::Length`].
pub fn emit_supported_versions(versions: &[u16], out: &mut [u8]) -> Result<usize, Malformed> {
    let count = u8::try_from(versions.len()).map_err(|_| Malformed::Length)?;
    let length = u16::from(count).saturating_mul(2).saturating_add(3);
    let mut writer = Writer::new(out);
    writer.put(&[1, 0, 0, 0, REGISTRY_DMTF, 0])?;
    writer.write(&U16::new(length))?;
    writer.put(&[DATA_VERSION, ID_SUPPORTED_VERSIONS, count])?;
    for version in versions {
        writer.write(&U16::new(*version))?;
    }
    while !writer.written().is_multiple_of(4) {
        writer.put(&[0])?;
    }
    Ok(writer.written())
}

/// Returns the versions that a requester supports.
///
/// # Errors
/// [`Malformed::Value`] if it does not say.
pub fn supported_versions(opaque: &[u8]) -> Result<&[U16], Malformed> {
    let mut reader = Reader::new(find(opaque, ID_SUPPORTED_VERSIONS)?);
    let count = *reader.read::<u8>()?;
    reader.read_list(usize::from(count))
}

/// Writes the responder's selection and returns its length.
///
/// # Errors
/// [`Malformed::NoRoom`].
pub fn emit_version_selection(version: u16, out: &mut [u8]) -> Result<usize, Malformed> {
    let mut writer = Writer::new(out);
    writer.put(&[
        1,
        0,
        0,
        0,
        REGISTRY_DMTF,
        0,
        4,
        0,
        DATA_VERSION,
        ID_VERSION_SELECTION,
    ])?;
    writer.write(&U16::new(version))?;
    Ok(writer.written())
}

/// Returns the version that a responder selected.
///
/// # Errors
/// [`Malformed::Value`] if it did not.
pub fn version_selection(opaque: &[u8]) -> Result<u16, Malformed> {
    let mut reader = Reader::new(find(opaque, ID_VERSION_SELECTION)?);
    Ok(reader.read::<U16>()?.get())
}
