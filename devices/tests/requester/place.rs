// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the device is: root port and host.

use std::sync::{Arc, Mutex};

use tsm_devices::{
    Bar, EndKeys, FunctionSource, FunctionView, KeySlot, LinkKey, LinkKeys, LinkStatus,
};
use zeroize::Zeroizing;

use super::RID;

/// Stream, name at the root port, and key.
type PortKey = (u8, KeySlot, [u8; 32]);

/// The root port's keys, which a test sets by hand.
#[derive(Clone, Default)]
pub struct RootPort {
    keys: Arc<Mutex<Vec<PortKey>>>,
    status: Arc<Mutex<LinkStatus>>,
}

impl RootPort {
    pub fn set(&self, stream: u8, slot: KeySlot, key: [u8; 32]) {
        self.stop(stream, slot);
        self.keys.lock().unwrap().push((stream, slot, key));
    }

    pub fn stop(&self, stream: u8, slot: KeySlot) {
        self.keys
            .lock()
            .unwrap()
            .retain(|(other, at, _)| (*other, *at) != (stream, slot));
    }

    pub fn status(&self) -> LinkStatus {
        *self.status.lock().unwrap()
    }
}

impl LinkKeys for RootPort {
    fn keys(&mut self, stream: u8) -> EndKeys {
        let mut keys = [const { None }; 12];
        for (other, slot, key) in self.keys.lock().unwrap().iter() {
            if *other == stream {
                keys[slot.index()] = Some(LinkKey {
                    key: Zeroizing::new(*key),
                    iv: 1,
                });
            }
        }
        keys
    }

    fn publish(&mut self, _: u8, status: LinkStatus) {
        *self.status.lock().unwrap() = status;
    }
}

/// The function as the host configures it.
#[derive(Clone)]
pub struct Host(pub Arc<Mutex<Option<FunctionView>>>, pub Arc<Mutex<bool>>);

impl FunctionSource for Host {
    fn view(&mut self) -> Option<FunctionView> {
        self.0.lock().unwrap().clone()
    }

    fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.1.lock().unwrap())
    }
}

pub fn function() -> FunctionView {
    let bars = vec![Bar {
        index: 0,
        address: 0x1020_0000,
        size: 0x4000,
    }];
    FunctionView {
        rid: Some(RID),
        bars,
    }
}
