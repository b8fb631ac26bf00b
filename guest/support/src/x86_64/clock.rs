// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The frequency of the time-stamp counter.

use super::{counter, port, set_counter_frequency};

/// Ticks of the interval timer in a second.
const TIMER_HZ: u64 = 1_193_182;
/// Part of a second that is measured.
const PART: u64 = 20;
/// Channel 2's counter, the timer's mode register, and the port with the channel's gate and output.
const CHANNEL_2: u16 = 0x42;
const MODE: u16 = 0x43;
const CONTROL: u16 = 0x61;
const GATE: u8 = 1;
const SPEAKER: u8 = 1 << 1;
const OUTPUT: u8 = 1 << 5;
/// Channel 2, both bytes, one shot.
const ONE_SHOT: u8 = 0xb0;

/// Measures the counter against the interval timer. Without one the frequency stays as it was.
pub fn calibrate() {
    let control = port::read8(CONTROL);
    port::write8(CONTROL, control & !SPEAKER | GATE);
    port::write8(MODE, ONE_SHOT);
    let [low, high, ..] = (TIMER_HZ / PART).to_le_bytes();
    port::write8(CHANNEL_2, low);
    port::write8(CHANNEL_2, high);
    let start = counter();
    let ended = (0..10_000_000).any(|_| port::read8(CONTROL) & OUTPUT != 0);
    let ticks = counter().saturating_sub(start);
    port::write8(CONTROL, control);
    if ended && ticks != 0 {
        set_counter_frequency(ticks.saturating_mul(PART));
    }
}
