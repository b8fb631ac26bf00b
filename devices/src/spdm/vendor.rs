// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Vendor-defined requests.

use super::offer::Peer;
use super::responder::Application;
use super::{Header, Reader, Refusal, code, response};
use crate::event::SessionId;

/// Standards body and vendor id of PCI-SIG.
const STANDARD_PCI_SIG: u16 = 3;
const VENDOR_PCI_SIG: [u8; 2] = [0x01, 0x00];
/// Bytes of VENDOR_DEFINED before the payload, at most.
const VENDOR_HEADER: usize = 15;
/// VENDOR_DEFINED (1.4): the payload's length has 32 bits.
const LARGE_PAYLOAD: u8 = 1 << 7;

/// Hands a PCI-SIG request to the application. `room` is the most that the answer may hold.
pub(super) fn vendor_defined(
    session: SessionId,
    header: Header,
    mut request: Reader<'_>,
    peer: &Peer,
    room: usize,
    application: &mut dyn Application,
) -> Result<Vec<u8>, Refusal> {
    let large = peer.large && header.param1 & LARGE_PAYLOAD != 0;
    let standard = request.u16()?;
    let vendor_length = usize::from(request.u8()?);
    let vendor = request.bytes(vendor_length)?;
    let mut length = usize::from(request.u16()?);
    if large {
        // The 16 bits are reserved; other requesters leave anything in them.
        length = request.u32()? as usize;
    }
    let payload = request.bytes(length)?;
    if standard != STANDARD_PCI_SIG || vendor != VENDOR_PCI_SIG {
        return Err(Refusal::UnsupportedRequest(code::VENDOR_DEFINED));
    }
    let room = room.saturating_sub(VENDOR_HEADER);
    let reply = application.vendor_request(session, payload, room)?;
    let attributes = if large { LARGE_PAYLOAD } else { 0 };
    let mut answer = response(peer.version, code::VENDOR_DEFINED, attributes, 0);
    answer.extend(STANDARD_PCI_SIG.to_le_bytes());
    answer.push(VENDOR_PCI_SIG.len() as u8);
    answer.extend(VENDOR_PCI_SIG);
    if large {
        answer.extend([0, 0]);
        answer.extend((reply.len() as u32).to_le_bytes());
    } else {
        answer.extend((reply.len() as u16).to_le_bytes());
    }
    answer.extend(reply);
    Ok(answer)
}
