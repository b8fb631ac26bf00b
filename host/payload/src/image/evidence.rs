// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Telling what the host keeps of the disk's evidence, so that it can be judged elsewhere.

use tsm_abi::rmi::CommObject;
use tsm_payload_support::{print, println};

use super::flow::Host;

/// Bytes told in one line.
const LINE: usize = 64;
/// The certificate slot that the host names when it creates the device.
const SLOT: u8 = 0;

/// Tells every object, and what the guest asked for.
pub fn tell(host: &Host) {
    let Some(asked) = &host.measured else {
        return;
    };
    println!("EVIDENCE slot {SLOT:02x}");
    println!("EVIDENCE raw {:02x}", asked.flags.get() & 1);
    line("nonce", &asked.nonce);
    for (name, object) in [
        ("negotiation", CommObject::Vca),
        ("certificates", CommObject::Certificate),
        ("measurements", CommObject::Measurements),
        ("report", CommObject::InterfaceReport),
    ] {
        let mut bytes = [0; LINE];
        for offset in (0..host.endpoint.caches.size(object)).step_by(LINE) {
            line(
                name,
                host.endpoint.caches.read_from(object, offset, &mut bytes),
            );
        }
    }
}

fn line(name: &str, bytes: &[u8]) {
    print!("EVIDENCE {name} ");
    for byte in bytes {
        print!("{byte:02x}");
    }
    println!("");
}
