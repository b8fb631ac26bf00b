// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Call registers: one by one through the decoders, and as sequences through the whole firmware.

use tsm_abi::rmi::{self, ROWS};
use tsm_abi::rsi;
use tsm_platform_fake::{DRAM_BASE, ENDPOINT_BAR, Host};

use crate::{number, take};

const PAGE: u64 = 0x1000;
/// Most calls of one sequence.
const MOST_CALLS: usize = 64;

/// Decodes registers as a host's and as a guest's call; what is understood is written back alike.
pub fn decode(mut data: &[u8]) {
    let function = number(&mut data, 8);
    let arguments: [u64; rmi::REGISTERS] = std::array::from_fn(|_| number(&mut data, 8));
    if let Ok(call) = rmi::Call::decode(function, &arguments) {
        let (again, registers) = call.encode();
        assert_eq!(again, function);
        assert_eq!(rmi::Call::decode(again, &registers), Ok(call));
    }
    let arguments: [u64; rsi::REGISTERS] = std::array::from_fn(|_| number(&mut data, 8));
    if let Ok(call) = rsi::Call::decode(function, &arguments) {
        let (again, registers) = call.encode();
        assert_eq!(again, function);
        assert_eq!(rsi::Call::decode(again, &registers), Ok(call));
    }
}

pub fn decode_seeds() -> Vec<Vec<u8>> {
    let seed = |function: u64| {
        let mut seed = function.to_le_bytes().to_vec();
        seed.extend((1..=20_u64).flat_map(|word| (word * PAGE).to_le_bytes()));
        seed
    };
    let rows = ROWS.iter().chain(rsi::ROWS);
    rows.map(|row| seed(row.function)).collect()
}

/// An address that calls may mean: a page of memory, of a device, or anything.
fn argument(host: &Host, base: u64, data: &mut &[u8]) -> u64 {
    let kind = number(data, 1);
    let value = number(data, 1);
    match kind % 6 {
        0 => base + value % 16 * PAGE,
        1 => value,
        2 => value * PAGE,
        3 => ENDPOINT_BAR + value % 8 * PAGE,
        4 => number(data, 8),
        _ => {
            // A page of parameters, made of what comes.
            let page = base + (16 + value % 4) * PAGE;
            let content = take(data, 64);
            let _ = host.fake.host_store(page, content);
            page
        }
    }
}

/// Makes calls one after another; afterwards the device tables and the granules agree.
pub fn sequence(mut data: &[u8]) {
    let host = Host::activated();
    let base = host.pages(32);
    for _ in 0..MOST_CALLS {
        if data.is_empty() {
            break;
        }
        let index = usize::try_from(number(&mut data, 1)).unwrap_or(0);
        let row = &ROWS[index % ROWS.len()];
        let mut registers = [0; rmi::REGISTERS];
        for register in registers.iter_mut().take(row.arguments.len()) {
            *register = argument(&host, base, &mut data);
        }
        let [status, ..] = host.raw(row.function, &registers);
        assert!(
            tsm_abi::RmiStatus::from_word(status).is_some(),
            "{} answered {status:#x}",
            row.name
        );
    }
    assert!(base >= DRAM_BASE);
}

pub fn sequence_seeds() -> Vec<Vec<u8>> {
    let all = (0..ROWS.len()).map(|index| {
        let mut seed = Vec::new();
        // A page is delegated, then the call gets it and pages of parameters.
        let delegate = ROWS
            .iter()
            .position(|row| row.name == "RMI_GRANULE_RANGE_DELEGATE");
        seed.push(u8::try_from(delegate.unwrap_or(0)).unwrap_or(0));
        seed.extend([0, 0, 0, 4]);
        seed.push(u8::try_from(index).unwrap_or(0));
        for at in 0..8_u8 {
            seed.extend([0, at % 3]);
        }
        seed
    });
    all.collect()
}
