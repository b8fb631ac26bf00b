// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Register offsets from the Non-secure page 0, and the values that bring the unit up.

/// Features: page sizes, stages, stall model.
pub const IDR0: u64 = 0x00;
/// Widths of stream ids and queues.
pub const IDR1: u64 = 0x04;
/// Range invalidation.
pub const IDR3: u64 = 0x0c;
/// Output address width.
pub const IDR5: u64 = 0x14;
/// Enables; [`CR0_ACK`] follows it.
pub const CR0: u64 = 0x20;
/// What of [`CR0`] has taken effect.
pub const CR0_ACK: u64 = 0x24;
/// Attributes of table and queue accesses.
pub const CR1: u64 = 0x28;
/// Behavior of stream ids outside the table, and private TLB maintenance.
pub const CR2: u64 = 0x2c;
/// What happens to transactions while the unit is off.
pub const GBPA: u64 = 0x44;
/// Interrupt enables.
pub const IRQ_CTRL: u64 = 0x50;
/// Global errors that are active: a bit differs from [`GERRORN`].
pub const GERROR: u64 = 0x60;
/// Acknowledged global errors.
pub const GERRORN: u64 = 0x64;
/// Address of the stream table, 64 bits.
pub const STRTAB_BASE: u64 = 0x80;
/// Format and size of the stream table.
pub const STRTAB_BASE_CFG: u64 = 0x88;
/// Address and size of the command queue, 64 bits.
pub const CMDQ_BASE: u64 = 0x90;
/// Where software writes commands.
pub const CMDQ_PROD: u64 = 0x98;
/// Where the unit reads commands.
pub const CMDQ_CONS: u64 = 0x9c;
/// Address and size of the event queue, 64 bits.
pub const EVENTQ_BASE: u64 = 0xa0;
/// Where the unit writes events; on the second page.
pub const EVENTQ_PROD: u64 = 0x1_00a8;
/// Where software reads events; on the second page.
pub const EVENTQ_CONS: u64 = 0x1_00ac;

/// IDR0: stage 2 is there.
pub const IDR0_S2P: u32 = 1 << 0;
/// IDR0: AArch64 tables (`TTF` is 2 or 3).
pub const IDR0_TTF_AARCH64: u32 = 1 << 3;
/// IDR0: table walks are coherent with the processors.
pub const IDR0_COHACC: u32 = 1 << 4;
/// IDR3: range invalidation commands.
pub const IDR3_RIL: u32 = 1 << 10;

/// CR0: translate.
pub const CR0_SMMUEN: u32 = 1 << 0;
/// CR0: write events.
pub const CR0_EVENTQEN: u32 = 1 << 2;
/// CR0: read commands.
pub const CR0_CMDQEN: u32 = 1 << 3;

/// CR1: tables and queues are inner shareable, write-back.
pub const CR1_WRITE_BACK: u32 = 3 << 10 | 1 << 8 | 1 << 6 | 3 << 4 | 1 << 2 | 1;
/// CR2: record transactions whose stream id is outside the table.
pub const CR2_RECINVSID: u32 = 1 << 1;
/// GBPA: abort what arrives while the unit is off; other fields as after reset. The unit clears
/// [`GBPA_UPDATE`] when that holds.
pub const GBPA_ABORT: u32 = GBPA_UPDATE | 1 << 20 | 0x1000;
/// GBPA: an update is in progress.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// GERROR: the command queue stopped at a command it did not understand.
pub const GERROR_CMDQ: u32 = 1 << 0;
/// GERROR: an event was lost because its write was refused.
pub const GERROR_EVENTQ_ABORT: u32 = 1 << 2;

/// CMDQ_CONS: why the queue stopped.
pub const CONS_ERROR: u32 = 0x7f << 24;

const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;
/// Hint to allocate lines on table and queue reads or writes.
const ALLOCATE: u64 = 1 << 62;

/// Returns the value of [`STRTAB_BASE`]. A linear table of 2^n entries is aligned to its size, or
/// the unit reads another one.
#[must_use]
pub const fn strtab_base(table: u64) -> u64 {
    table & ADDRESS | ALLOCATE
}

/// Returns the value of [`STRTAB_BASE_CFG`] for a linear table of 2^`log2_entries` entries.
#[must_use]
pub const fn strtab_base_cfg(log2_entries: u8) -> u32 {
    (log2_entries & 0x3f) as u32
}

/// Returns the value of [`CMDQ_BASE`] or [`EVENTQ_BASE`] for a queue of 2^`log2_entries` entries,
/// aligned to its size.
#[must_use]
pub const fn queue_base(queue: u64, log2_entries: u8) -> u64 {
    queue & ADDRESS & !0x1f | (log2_entries & 0x1f) as u64 | ALLOCATE
}

#[cfg(test)]
mod tests {
    use super::{CR0_CMDQEN, CR0_EVENTQEN, CR0_SMMUEN, GBPA_ABORT, queue_base, strtab_base_cfg};

    #[test]
    fn the_values_are_the_ones_that_worked() {
        assert_eq!(CR0_CMDQEN | CR0_EVENTQEN, 0xc);
        assert_eq!(CR0_CMDQEN | CR0_EVENTQEN | CR0_SMMUEN, 0xd);
        assert_eq!(GBPA_ABORT, 1 << 31 | 1 << 20 | 0x1000);
        assert_eq!(strtab_base_cfg(12), 12);
        assert_eq!(queue_base(0x7f80_0000, 8), 1 << 62 | 0x7f80_0008);
    }
}
