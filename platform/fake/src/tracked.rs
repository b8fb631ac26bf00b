// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The words by which granules are tracked, used again by the next machine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tsm_core::{Kind, Region};
use tsm_platform::GranuleRange;

use crate::{DRAM_BASE, DRAM_TOP, MMIO_BASE, MMIO_TOP, lock};

type Words = &'static [AtomicU32];

/// Words of machines that are gone.
static SPARE: Mutex<Vec<Tracked>> = Mutex::new(Vec::new());

/// Every granule of one machine. The words live for ever, as a board's do, but the machine does not.
pub(crate) struct Tracked {
    regions: &'static [Region],
    words: [Words; 2],
}

fn make(base: u64, top: u64, kind: Kind) -> (Region, Words) {
    let range = GranuleRange::new(base, top).expect("the map is aligned");
    let count = usize::try_from(range.count()).expect("a test's machine is small");
    let words: Words = (0..count)
        .map(|_| AtomicU32::new(0))
        .collect::<Vec<_>>()
        .leak();
    let region = Region::new(range, kind, words).expect("one word for each granule");
    (region, words)
}

impl Tracked {
    /// Returns regions all of whose granules are the host's.
    pub fn new() -> Self {
        if let Some(spare) = lock(&SPARE).pop() {
            return spare;
        }
        let (memory, first) = make(DRAM_BASE, DRAM_TOP, Kind::Memory);
        let (device, second) = make(MMIO_BASE, MMIO_TOP, Kind::Device);
        Self {
            regions: vec![memory, device].leak(),
            words: [first, second],
        }
    }

    /// Returns the regions. They must not be used after this value is gone.
    pub fn regions(&self) -> &'static [Region] {
        self.regions
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        for word in self.words.iter().copied().flatten() {
            word.store(0, Ordering::Relaxed);
        }
        lock(&SPARE).push(Self {
            regions: self.regions,
            words: self.words,
        });
    }
}
