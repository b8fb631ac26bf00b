// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Counting instructions: one tick of the counter is one instruction when QEMU counts them.
//!
//! A count runs from the call to the return to its next instruction. The least of several is told:
//! the first calls of a path fill caches of QEMU that are no property of the firmware.

use tsm_abi::rmi::{
    BlockSize, Call, MEASURE_CONTENT, MapFlags, RangeDescriptor, RecParams, RecParamsFlags,
    TeardownOrder,
};
use tsm_payload_support::{arch, println};
use zerocopy::FromZeros;

use super::board::SPARE_GIB;
use super::flow::{self, Host};
use super::layout::{DONATED_TOP, Page, REALM_DATA, Slot};
use super::memory;
use super::processor::START_LEVEL;
use super::processor::bench::{NULL_CALL, bare_turn, guest_code, timed};
use super::report::verdict;
use super::rmi::{self, Refused, Result, delegate, must, undelegate};
use super::{realm, vdev};

const RD: u64 = Slot::Rd.address();
const ROUNDS: u64 = 5;
/// Guest address of a 2 MiB block below the level 2 table, beside the realm's own memory.
const BLOCK_IPA: u64 = 0x40_0000;
/// Host memory of the block.
const BLOCK: u64 = REALM_DATA + 0x20_0000;
const BLOCK_BYTES: u64 = 0x20_0000;
/// A number of the host's range that no call has.
const UNKNOWN_CALL: u64 = 0xc400_0151;

/// Counts a call that must succeed.
fn count(call: &Call) -> Result<u64> {
    let (function, arguments) = call.encode();
    let counted = timed(function, arguments);
    if counted.status == 0 {
        Ok(counted.ticks)
    } else {
        Err(Refused::new(call, counted.status))
    }
}

/// Counts a range call, repeated until it is at its end.
fn count_range(base: u64, top: u64, make: impl Fn(u64) -> Call) -> Result<u64> {
    let mut total = 0;
    let mut next = base;
    while next < top {
        let call = make(next);
        let (function, arguments) = call.encode();
        let counted = timed(function, arguments);
        if counted.status != 0 || counted.result <= next {
            return Err(Refused::new(&call, counted.status));
        }
        total += counted.ticks;
        next = counted.result;
    }
    Ok(total)
}

fn row(name: &str, ticks: u64) {
    println!("BENCH {name} | {ticks}");
}

/// Tells the least count of `make`, which `undo` undoes each time, and the least count of `undo`.
fn pair(
    names: (&str, &str),
    mut make: impl FnMut() -> Result<u64>,
    mut undo: impl FnMut() -> Result<u64>,
) -> Result<()> {
    let mut least = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        least.0 = least.0.min(make()?);
        least.1 = least.1.min(undo()?);
    }
    row(names.0, least.0);
    if !names.1.is_empty() {
        row(names.1, least.1);
    }
    Ok(())
}

fn least_of(name: &str, function: u64, arguments: [u64; 7]) {
    let counts = (0..ROUNDS).map(|_| timed(function, arguments).ticks);
    row(name, counts.min().unwrap_or(0));
}

/// Counts everything and ends the machine. `at_entry` is the counter at the first instruction.
pub fn run(at_entry: u64) -> ! {
    row("reset to host", at_entry);
    match flow::discover().map(|mut host| all(&mut host)) {
        Some(Ok(())) => verdict(true, format_args!("counted")),
        Some(Err(refused)) => verdict(false, format_args!("{refused}")),
        None => verdict(false, format_args!("the disk is missing")),
    }
}

fn all(host: &mut Host) -> Result<()> {
    if let Some(ticks) = bare_turn() {
        row("bare VMRUN loop", ticks);
    }
    least_of("null call", NULL_CALL, [0; 7]);
    let (version, arguments) = Call::Version {
        requested: tsm_abi::rmi::VERSION,
    }
    .encode();
    least_of("RMI_VERSION", version, arguments);
    least_of("unknown RMI", UNKNOWN_CALL, [0; 7]);
    flow::start_tsm()?;
    granules()?;
    delegate(REALM_DATA, DONATED_TOP)?;
    realm_objects()?;
    guest()?;
    device(host)?;
    flow::stop_tsm()?;
    undelegate(REALM_DATA, DONATED_TOP)
}

fn granules() -> Result<()> {
    let sizes = [
        (
            "GRANULE_RANGE_DELEGATE 1",
            "GRANULE_RANGE_UNDELEGATE 1",
            REALM_DATA,
            0x1000,
        ),
        (
            "GRANULE_RANGE_DELEGATE 2M",
            "GRANULE_RANGE_UNDELEGATE 2M",
            REALM_DATA,
            BLOCK_BYTES,
        ),
        (
            "GRANULE_RANGE_DELEGATE 1G",
            "GRANULE_RANGE_UNDELEGATE 1G",
            SPARE_GIB,
            1 << 30,
        ),
    ];
    for (make, undo, start, bytes) in sizes {
        let end = start + bytes;
        pair(
            (make, undo),
            || {
                count_range(start, end, |start| Call::GranuleRangeDelegate {
                    start,
                    end,
                })
            },
            || {
                count_range(start, end, |start| Call::GranuleRangeUndelegate {
                    start,
                    end,
                })
            },
        )?;
    }
    Ok(())
}

fn realm_objects() -> Result<()> {
    let rd = RD;
    let create = realm::create_call(TeardownOrder::UnmapFirst);
    pair(
        ("REALM_CREATE", ""),
        || count(&create),
        || count(&Call::RealmDestroy { rd }),
    )?;
    must(&create)?;
    let upper = &[(1, Slot::RttTop), (2, Slot::RttLow)][START_LEVEL..];
    for (level, slot) in upper {
        must(&Call::RttCreate {
            rd,
            rtt: slot.address(),
            ipa: 0,
            level: *level,
        })?;
    }
    let table = Call::RttCreate {
        rd,
        rtt: Slot::RttMemory0.address(),
        ipa: 0,
        level: 3,
    };
    let (ipa, level) = (0, 3);
    pair(
        ("RTT_CREATE", "RTT_DESTROY"),
        || count(&table),
        || count(&Call::RttDestroy { rd, ipa, level }),
    )?;
    must(&table)?;
    let (read, arguments) = Call::RttReadEntry { rd, ipa, level }.encode();
    least_of("RTT_READ_ENTRY", read, arguments);
    mappings()?;
    must(&Call::RttDestroy { rd, ipa, level })?;
    for (level, _) in upper.iter().rev() {
        must(&Call::RttDestroy {
            rd,
            ipa,
            level: *level,
        })?;
    }
    must(&Call::RealmDestroy { rd })?;
    Ok(())
}

fn data_unmap(base: u64, top: u64) -> Result<u64> {
    count_range(base, top, |base| Call::RttDataUnmap {
        rd: RD,
        base,
        top,
        flags: 0,
        oaddr: 0,
    })
}

fn mappings() -> Result<()> {
    let flags = MapFlags::single().0;
    let block = RangeDescriptor::new(BLOCK, BlockSize::Block2M, 1).0;
    let sizes = [
        ("RTT_DATA_MAP 1", "RTT_DATA_UNMAP 1", 0, 0x1000, None),
        (
            "RTT_DATA_MAP 512x1",
            "RTT_DATA_UNMAP 512x1",
            0,
            BLOCK_BYTES,
            None,
        ),
        (
            "RTT_DATA_MAP 2M",
            "RTT_DATA_UNMAP 2M",
            BLOCK_IPA,
            BLOCK_BYTES,
            Some(block),
        ),
    ];
    for (make, undo, base, bytes, descriptor) in sizes {
        let top = base + bytes;
        pair(
            (make, undo),
            || {
                count_range(base, top, |next| Call::RttDataMap {
                    rd: RD,
                    base: next,
                    top,
                    flags,
                    oaddr: descriptor
                        .unwrap_or_else(|| rmi::pages(REALM_DATA + next, REALM_DATA + top).0),
                })
            },
            || data_unmap(base, top),
        )?;
    }
    let initial = Call::RttDataMapInit {
        rd: RD,
        data: REALM_DATA,
        ipa: 0,
        src: Page::Comm.address(),
        flags: MEASURE_CONTENT,
    };
    pair(
        ("RTT_DATA_MAP_INIT", ""),
        || count(&initial),
        || data_unmap(0, 0x1000),
    )
}

fn rec_params(mpidr: u64) -> Call {
    let mut params = RecParams::new_zeroed();
    params.flags.set(RecParamsFlags::RUNNABLE.bits());
    params.mpidr.set(mpidr);
    memory::store(Page::Parameters.address(), &params);
    Call::RecCreate {
        rd: RD,
        rec: Slot::Rec.address(),
        params: Page::Parameters.address(),
    }
}

/// Runs the small guest above.
fn guest() -> Result<()> {
    realm::create(TeardownOrder::UnmapFirst)?;
    let rec = Slot::Rec.address();
    let mut mpidr = 0;
    pair(
        ("REC_CREATE", ""),
        || {
            let create = rec_params(mpidr);
            mpidr += 1;
            count(&create)
        },
        || count(&Call::RecDestroy { rec }),
    )?;
    must(&rec_params(mpidr))?;
    realm::populate_from(guest_code(), 0x1000)?;
    must(&Call::RealmActivate { rd: RD })?;
    let run = Page::Run.address();
    memory::zero_page(run);
    let enter = Call::RecEnter { rec, run };
    must(&enter)?;
    let exit = memory::words(run + 0x800);
    // Registers 1 and 2 of the guest's structure.
    row("RSI_VERSION", exit.read64(0x208).saturating_sub(1));
    row("RSI_IPA_STATE_GET", exit.read64(0x210).saturating_sub(1));
    let (function, arguments) = enter.encode();
    least_of("REC_ENTER host call", function, arguments);
    realm::destroy()
}

/// Counts the operations of a device. Work of the host, who carries the messages, is in the counts.
fn device(host: &mut Host) -> Result<()> {
    let clock = arch::counter;
    let mut last = clock();
    let mut lap = |name: Option<&str>| {
        if let Some(name) = name {
            row(name, clock() - last);
        }
        last = clock();
    };
    flow::connect(host)?;
    lap(Some("connect"));
    realm::create(TeardownOrder::UnmapFirst)?;
    vdev::create(&host.topology, &mut host.endpoint)?;
    lap(None);
    vdev::lock(&mut host.endpoint)?;
    lap(Some("lock"));
    vdev::report(&mut host.endpoint)?;
    lap(None);
    vdev::start(&mut host.endpoint)?;
    lap(Some("start"));
    vdev::unlock(&mut host.endpoint)?;
    lap(Some("unlock"));
    vdev::destroy()?;
    realm::abandon()?;
    flow::disconnect(host)?;
    Ok(())
}
