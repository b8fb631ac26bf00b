// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The TSM's address space. The image and its region lie at their physical addresses, below the windows.

/// Most CPUs that may enter.
pub const MAX_CPUS: usize = 8;

/// Where granules are seen: physical address plus this.
pub const REALM_WINDOW: u64 = 1 << 39;
/// Where host memory is seen.
pub const HOST_WINDOW: u64 = 2 << 39;
/// Where stacks are mapped.
pub const STACK_WINDOW: u64 = 3 << 39;
/// Where devices are seen.
pub const DEVICE_WINDOW: u64 = 4 << 39;
/// Size of each window.
pub const WINDOW_SIZE: u64 = 1 << 39;

/// Size of a stack in bytes. The address space below each stack is empty for as many bytes.
pub const STACK_SIZE: u64 = 64 * 1024;
/// Distance of two stacks. A stack starts at a multiple of it, so the bit of the stack's size is
/// clear in every address inside and set in those below.
pub const STACK_STRIDE: u64 = 2 * STACK_SIZE;

/// Size of the stack for isolated work in bytes. The largest work is a signature of ML-DSA-87.
pub const ISOLATED_SIZE: u64 = 512 << 10;
/// Where the empty part below it starts.
pub const ISOLATED_GUARD: u64 = STACK_WINDOW + MAX_CPUS as u64 * STACK_STRIDE;
/// Bytes of the empty part: more than the largest frame.
pub const ISOLATED_GUARD_SIZE: u64 = ISOLATED_SIZE;
/// Where it starts.
pub const ISOLATED_BASE: u64 = ISOLATED_GUARD + ISOLATED_GUARD_SIZE;
