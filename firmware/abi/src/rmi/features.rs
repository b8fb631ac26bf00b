// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fields of the feature registers.

use crate::values::BitField;

/// Register 0: width of the largest guest address space, in bits.
pub const R0_S2SZ: BitField = BitField::new(0, 8);
/// Register 0: 52-bit addresses.
pub const R0_LPA2: BitField = BitField::new(8, 1);
/// Register 0: scalable vectors.
pub const R0_SVE: BitField = BitField::new(9, 1);
/// Register 0: largest vector length.
pub const R0_SVE_VL: BitField = BitField::new(10, 4);
/// Register 0: breakpoints, minus one.
pub const R0_NUM_BPS: BitField = BitField::new(14, 6);
/// Register 0: watchpoints, minus one.
pub const R0_NUM_WPS: BitField = BitField::new(20, 6);
/// Register 0: performance counters.
pub const R0_PMU: BitField = BitField::new(26, 1);
/// Register 0: number of performance counters.
pub const R0_PMU_NUM_CTRS: BitField = BitField::new(27, 5);
/// Register 1: granules of 4 KiB.
pub const R1_GRANULE_4K: BitField = BitField::new(0, 1);
/// Register 1: granules of 16 KiB.
pub const R1_GRANULE_16K: BitField = BitField::new(1, 1);
/// Register 1: granules of 64 KiB.
pub const R1_GRANULE_64K: BitField = BitField::new(2, 1);
/// Register 1: realms measured with SHA-256.
pub const R1_HASH_SHA_256: BitField = BitField::new(3, 1);
/// Register 1: realms measured with SHA-384.
pub const R1_HASH_SHA_384: BitField = BitField::new(4, 1);
/// Register 1: realms measured with SHA-512.
pub const R1_HASH_SHA_512: BitField = BitField::new(5, 1);
/// Register 1: order of the largest number of virtual CPUs of a realm.
pub const R1_MAX_RECS_ORDER: BitField = BitField::new(6, 4);
/// Register 1: size of a level 0 entry of the granule protection table, encoded.
pub const R1_L0GPTSZ: BitField = BitField::new(10, 4);
/// Register 1: size of the protected address space, encoded.
pub const R1_PPS: BitField = BitField::new(14, 3);
/// Register 2: devices can be assigned.
pub const R2_DA: BitField = BitField::new(0, 1);
/// Register 2: coherent devices can be assigned.
pub const R2_DA_COHERENT: BitField = BitField::new(1, 1);
/// Register 2: virtual IOMMUs.
pub const R2_VSMMU: BitField = BitField::new(2, 1);
/// Register 2: address translation by devices.
pub const R2_ATS: BitField = BitField::new(3, 1);
/// Register 2: order of the largest number of interfaces of a realm.
pub const R2_MAX_VDEVS_ORDER: BitField = BitField::new(4, 4);
/// Register 2: keys can be replaced while interfaces run.
pub const R2_VDEV_KROU: BitField = BitField::new(8, 1);
/// Register 2: streams for transactions without T bit.
pub const R2_NON_TEE_STREAM: BitField = BitField::new(9, 1);
/// Register 3: largest number of auxiliary planes.
pub const R3_MAX_NUM_AUX_PLANES: BitField = BitField::new(0, 4);
/// Index of the register that tells in which orders devices may be taken away. The interface has
/// no such register: it reads as zero elsewhere, which is no order but the default.
pub const TEARDOWN: u64 = 1 << 31;
/// Register [`TEARDOWN`]: bit `n` is set if the [`TeardownOrder`](super::TeardownOrder) `n` is
/// accepted.
pub const TEARDOWN_ORDERS: BitField = BitField::new(0, 8);
