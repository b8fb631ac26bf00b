// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Configuration space of a hostile function: capability lists, BARs, bridges.

use tsm_abi::rmi::{Call, PdevParams};
use tsm_platform::Rid;
use tsm_platform_fake::{ENDPOINT, Function, Host, ROOT_PORT};
use zerocopy::{FromZeros, IntoBytes};

use crate::{number, take};

/// Most accesses of the host.
const MOST_ACCESSES: usize = 32;

/// Makes a function of what comes, has the firmware look at it, and lets the host access it.
pub fn run(mut data: &[u8]) {
    let host = Host::activated();
    let rid = if number(&mut data, 1) & 1 == 0 {
        ENDPOINT
    } else {
        ROOT_PORT
    };
    let mut function = host.fake.function(rid).unwrap_or_else(Function::empty);
    let count = number(&mut data, 1);
    for _ in 0..count {
        let offset = usize::try_from(number(&mut data, 2) & 0xffc).unwrap_or(0);
        let value = number(&mut data, 4) as u32;
        let writable = number(&mut data, 4) as u32;
        function = function.with(offset, value, writable);
    }
    host.fake.set_function(rid, function);
    let mut params = PdevParams::new_zeroed();
    let bytes = take(&mut data, 0x40);
    params.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    params.pdev_id = u64::from(rid.0).into();
    let _ = host.create_pdev(&params);
    for _ in 0..MOST_ACCESSES {
        if data.is_empty() {
            return;
        }
        let flags = number(&mut data, 1);
        let target = [ENDPOINT, ROOT_PORT, Rid(0x0008)][(flags % 3) as usize];
        let width = [1, 2, 4][(flags / 3 % 3) as usize];
        let offset = (number(&mut data, 2) & 0xfff) as u16 / u16::from(width) * u16::from(width);
        let write = (flags & 0x80 != 0).then(|| number(&mut data, 4) as u32);
        host.tsm
            .host_config_access(&host.fake, target, offset, width, write);
    }
    let _ = host.call(Call::Features { index: 0 });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for port in [0, 1] {
        for next in [0x40, 0x41, 0x00, 0xff] {
            let mut seed = vec![port, 3];
            // The list's head, a capability, an extended one that leads to itself.
            for (offset, value) in [(0x34_u16, next), (0x40, 0x0002_4010), (0x100, 0x1001_002e)] {
                seed.extend(offset.to_le_bytes());
                seed.extend(u32::to_le_bytes(value));
                seed.extend(u32::MAX.to_le_bytes());
            }
            let mut params = PdevParams::new_zeroed();
            params.flags = 3.into();
            seed.extend(&params.as_bytes()[..0x40]);
            for offset in [0x04_u16, 0x10, 0x18, 0x20, 0x30] {
                seed.push(0x88 + port);
                seed.extend(offset.to_le_bytes());
                seed.extend(0x1020_0000_u32.to_le_bytes());
            }
            seeds.push(seed);
        }
    }
    seeds
}
