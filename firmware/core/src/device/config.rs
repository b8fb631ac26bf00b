// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host accesses to configuration space.
//!
//! Reads pass. A write passes unless it would lay a function over memory that is not the host's to
//! move things onto, or would change the function or the path of an interface that is locked or
//! started. The latter moves the interface to ERROR and cuts it off first, and the write is refused
//! all the same: TDISP 1.0 has the device fall to ERROR for each of them. Where a read tells the host
//! that the function is gone, its interface is cut off too.

use tsm_platform::{ConfigSpace, Rid};

use super::pci::{
    BUS_MASTER, Function, MEMORY_ENABLE, SINGLE_ROOT_IOV, VirtualFunctions, register,
};
use super::registry::Registry;
use super::sizes::KnownSizes;
use super::vdev;
use crate::context::{Context, Machine};

/// Capabilities whose registers matter while an interface is bound.
const POWER_MANAGEMENT: u8 = 0x01;
const PCI_EXPRESS: u8 = 0x10;
const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;
const ADVANCED_FEATURES: u8 = 0x13;
/// Enable bit in the first register of both kinds of message interrupts.
const MSI_ENABLE: u32 = 1 << 16;
const MSI_X_ENABLE: u32 = 1 << 31;
/// Bytes of the largest MSI capability.
const MSI_BYTES: u16 = 0x18;

/// Extended capabilities that a host must leave alone while an interface is bound: they move
/// registers, make functions, or change how requests are marked.
const FROZEN_EXTENDED: [u16; 8] = [
    0x0d, // access control services
    0x0f, // address translation services
    SINGLE_ROOT_IOV,
    0x13, // page requests
    0x15, // resizable BAR
    0x1b, // process address space ids
    0x24, // virtual function resizable BAR
    0x30, // integrity and data encryption
];

/// Extended capabilities that a host must leave alone while an interface is bound: what they change
/// takes packets another way, or the link down. Nothing that is measured at creation is among them.
const FROZEN_WHILE_BOUND: [u16; 7] = [
    0x02, // virtual channels
    0x08, // virtual channels of several functions
    0x09, // virtual channels beside those
    0x12, // multicast
    0x17, // processing hints
    0x1c, // lightweight notification
    0x1d, // downstream port containment: its trigger takes the link down
];

/// Registers of the PCI Express capability, by offset.
const DEVICE_CONTROL: u16 = 0x08;
const LINK_CONTROL: u16 = 0x10;
const SLOT_CONTROL: u16 = 0x18;
const LINK_CONTROL_2: u16 = 0x30;
/// Device control: use unclaimed function numbers as one's own.
const PHANTOM_FUNCTIONS: u32 = 1 << 9;
/// Device control: function level reset.
const FUNCTION_RESET: u32 = 1 << 15;
/// Advanced features: function level reset.
const ADVANCED_RESET: u32 = 1;
/// Link control: the link goes down.
const LINK_DISABLE: u32 = 1 << 4;
/// Slot control: power off, and the lock toggles.
const SLOT_OFF: u32 = 1 << 10 | 1 << 11;
/// Link control 2: the link goes to a test mode.
const ENTER_COMPLIANCE: u32 = 1 << 4;
/// Built-in self test begins, in the register of the header type.
const START_SELF_TEST: u32 = 1 << 30;

/// Performs or refuses a host access of `width` bytes and returns the value read.
pub(crate) fn access<P: Machine>(
    context: &Context<'_, P>,
    rid: Rid,
    offset: u16,
    width: u8,
    write: Option<u32>,
) -> u32 {
    let platform = context.platform;
    let [_, bus] = rid.0.to_le_bytes();
    let is_there = matches!(width, 1 | 2 | 4)
        && offset.is_multiple_of(u16::from(width))
        && offset < 0x1000
        && u16::from(bus) < platform.buses()
        && !platform.is_hidden(rid);
    let Some(value) = write else {
        return if is_there {
            read(context, rid, offset, width)
        } else {
            u32::MAX
        };
    };
    if !is_there {
        return 0;
    }
    let mut registry = context.devices();
    vdev::note_bound(context, &mut registry);
    let function = Function::new(platform, rid);
    let at = offset & !3;
    let old = function.read(at);
    // What kind of region is behind a BAR is not the host's to say.
    let fixed = function.kind_bits(at);
    let new = merge(old, offset & 3, width, value) & !fixed | old & fixed;
    if cuts(context, &mut registry, rid, &function, (at, old, new)) {
        return 0;
    }
    if covers_foreign(context, &mut registry, rid, &function, (at, new)) {
        return 0;
    }
    if old != new && is_frozen(&function, at) {
        registry.sizes.forget(rid);
    }
    platform.config_write(rid, offset, width, value);
    0
}

/// Reads for the host. A function whose id reads as ones was pulled, or its link is down.
fn read<P: Machine>(context: &Context<'_, P>, rid: Rid, offset: u16, width: u8) -> u32 {
    let value = context.platform.config_read(rid, offset, width);
    let ones = merge(0, 0, width, u32::MAX);
    if offset == 0 && value & ones == ones {
        let registry = context.devices();
        let mut interfaces = registry.interfaces().iter();
        if let Some(gone) = interfaces.find(|interface| interface.rid == rid) {
            // One whose cut is not confirmed stays condemned; one that is not bound is the host's.
            let _ = vdev::settle(context, gone.object);
        }
    }
    value
}

/// Returns `old` with `width` bytes at `byte` replaced.
fn merge(old: u32, byte: u16, width: u8, value: u32) -> u32 {
    let shift = u32::from(byte).saturating_mul(8);
    let ones = u32::MAX
        .checked_shr(32_u32.saturating_sub(u32::from(width).saturating_mul(8)))
        .unwrap_or(0);
    (old & !(ones.wrapping_shl(shift))) | (value & ones).wrapping_shl(shift)
}

/// Cuts off every bound interface that the write would disturb. Returns whether there was one.
fn cuts<P: Machine>(
    context: &Context<'_, P>,
    registry: &mut Registry,
    rid: Rid,
    function: &Function<'_, P>,
    write: (u16, u32, u32),
) -> bool {
    let mut found = false;
    for index in 0..registry.interfaces().len() {
        let Some(interface) = registry.interfaces().get(index).copied() else {
            continue;
        };
        if vdev::with(context, interface.object, |vdev| vdev.is_guarded()) != Ok(true) {
            // What was measured at creation must not change, bound or not.
            found |= interface.rid == rid && write.1 != write.2 && is_frozen(function, write.0);
            continue;
        }
        let hit = if interface.rid == rid {
            disturbs_function(function, write)
        } else {
            function.is_above(interface.rid) && disturbs_path(function, write)
        };
        if hit {
            vdev::cut_off(context, interface.object);
            found = true;
        }
    }
    found
}

/// Returns whether the write changes what a bound function answers to or how it is powered.
fn disturbs_function<P: ConfigSpace>(
    function: &Function<'_, P>,
    (at, old, new): (u16, u32, u32),
) -> bool {
    let bars = register::BAR..register::BAR.saturating_add(24);
    if bars.contains(&at) || at == register::ROM {
        return old != new;
    }
    if at == register::COMMAND {
        return loses_access(old, new);
    }
    if powers_down(function, at, new) || resets(function, at, new) {
        return true;
    }
    if function.capability(MSI_X) == Some(at) {
        // Enable and function mask.
        return (old ^ new) & 0xc000_0000 != 0;
    }
    let message = function
        .capability(MSI)
        .and_then(|first| at.checked_sub(first));
    if message.is_some_and(|offset| offset < MSI_BYTES) {
        return old != new;
    }
    if register_of(function, PCI_EXPRESS, DEVICE_CONTROL) == Some(at) {
        return new & FUNCTION_RESET != 0 || (old ^ new) & PHANTOM_FUNCTIONS != 0;
    }
    is_frozen_while_bound(function, at) && old != new
}

/// Returns whether the function sends no message interrupts. They are writes to addresses that the
/// host chooses, and on a bus that does not tell them from other writes they would reach the guest.
pub(super) fn is_silent<P: ConfigSpace>(function: &Function<'_, P>) -> bool {
    let is_off = |id, enable| {
        let control = function.capability(id).map(|at| function.read(at));
        control.is_none_or(|control| control & enable == 0)
    };
    is_off(MSI, MSI_ENABLE) && is_off(MSI_X, MSI_X_ENABLE)
}

/// Returns whether the write changes how a bound function behind this bridge is reached.
fn disturbs_path<P: ConfigSpace>(
    bridge: &Function<'_, P>,
    (at, old, new): (u16, u32, u32),
) -> bool {
    match at {
        register::COMMAND => return loses_access(old, new),
        // The top byte is a timer.
        register::BUSES => return (old ^ new) & 0x00ff_ffff != 0,
        register::WINDOW..=register::PREFETCHABLE_LIMIT_HIGH => return old != new,
        // Secondary bus reset.
        register::BRIDGE_CONTROL => return new & 1 << 22 != 0,
        _ => {}
    }
    if powers_down(bridge, at, new) || resets(bridge, at, new) {
        return true;
    }
    let is_slot = register_of(bridge, PCI_EXPRESS, SLOT_CONTROL) == Some(at);
    (is_slot && new & SLOT_OFF != 0) || (is_frozen_while_bound(bridge, at) && old != new)
}

/// Returns whether the write resets a function in a way that all kinds know, or takes its link down.
fn resets<P: ConfigSpace>(function: &Function<'_, P>, at: u16, new: u32) -> bool {
    let bits = [
        (PCI_EXPRESS, LINK_CONTROL, LINK_DISABLE),
        (PCI_EXPRESS, LINK_CONTROL_2, ENTER_COMPLIANCE),
        (ADVANCED_FEATURES, 4, ADVANCED_RESET),
    ];
    let hits = |(id, offset, bit): (u8, u16, u32)| {
        register_of(function, id, offset) == Some(at) && new & bit != 0
    };
    bits.into_iter().any(hits) || (at == register::HEADER && new & START_SELF_TEST != 0)
}

fn loses_access(old: u32, new: u32) -> bool {
    old & !new & (MEMORY_ENABLE | BUS_MASTER) != 0
}

fn powers_down<P: ConfigSpace>(function: &Function<'_, P>, at: u16, new: u32) -> bool {
    register_of(function, POWER_MANAGEMENT, 4) == Some(at) && new & 3 != 0
}

fn register_of<P: ConfigSpace>(function: &Function<'_, P>, id: u8, offset: u16) -> Option<u16> {
    function.capability(id)?.checked_add(offset)
}

fn is_frozen<P: ConfigSpace>(function: &Function<'_, P>, at: u16) -> bool {
    at >= 0x100
        && function
            .extended_at(at)
            .is_some_and(|id| FROZEN_EXTENDED.contains(&id))
}

fn is_frozen_while_bound<P: ConfigSpace>(function: &Function<'_, P>, at: u16) -> bool {
    let is_listed = |id| FROZEN_EXTENDED.contains(&id) || FROZEN_WHILE_BOUND.contains(&id);
    at >= 0x100 && function.extended_at(at).is_some_and(is_listed)
}

/// Returns whether the function, as it would be `after` the write to the register `at`, answers in
/// memory that the platform keeps or that a bound interface of another function has, or would be
/// taken for that function.
fn covers_foreign<P: Machine>(
    context: &Context<'_, P>,
    registry: &mut Registry,
    rid: Rid,
    function: &Function<'_, P>,
    (at, new): (u16, u32),
) -> bool {
    let after = &function.supposing(at, new);
    let is_routing = at == register::COMMAND
        || at == after.rom()
        || (register::BAR..=register::PREFETCHABLE_LIMIT_HIGH).contains(&at);
    let is_virtual = at >= 0x100 && after.extended_at(at) == Some(SINGLE_ROOT_IOV);
    if !is_routing && !is_virtual {
        return false;
    }
    let virtuals = after.virtual_functions();
    let moves_virtual = |all: &VirtualFunctions| all.registers.contains(&at);
    if function.read(at) != new && virtuals.as_ref().is_some_and(moves_virtual) {
        // Hardware drops the bits of an address below the region's size, which is not known here.
        return true;
    }
    let answers = |span, sizes: &mut KnownSizes| {
        let by_virtual = virtuals
            .as_ref()
            .is_some_and(|functions| functions.may_answer_in(span));
        // A function that does not decode may hold anything: a stock system sizes BARs that way.
        by_virtual || after.answers_in(span, sizes)
    };
    let reserved = context.platform.reserved_mmio().iter();
    for span in reserved.map(|range| (range.base(), range.top())) {
        if answers(span, &mut registry.sizes) || after.forwards(span) {
            return true;
        }
    }
    for index in 0..registry.interfaces().len() {
        let Some(interface) = registry.interfaces().get(index).copied() else {
            continue;
        };
        if interface.rid == rid {
            continue;
        }
        let is_path = function.is_above(interface.rid);
        let is_taken_for_it = virtuals
            .as_ref()
            .is_some_and(|all| all.include(interface.rid))
            || (!is_path && after.is_above(interface.rid));
        let sizes = &mut registry.sizes;
        let covers = vdev::with(context, interface.object, |vdev| {
            vdev.is_guarded()
                && (is_taken_for_it
                    || vdev.ranges.iter().any(|range| {
                        let span = (range.base(), range.top());
                        answers(span, sizes) || (!is_path && after.forwards(span))
                    }))
        });
        if covers != Ok(false) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn a_narrow_write_replaces_its_own_bytes_only() {
        assert_eq!(merge(0x1122_3344, 0, 4, 0xaabb_ccdd), 0xaabb_ccdd);
        assert_eq!(merge(0x1122_3344, 2, 2, 0xffff_ccdd), 0xccdd_3344);
        assert_eq!(merge(0x1122_3344, 3, 1, 0x1_ff), 0xff22_3344);
        assert_eq!(merge(0x1122_3344, 0, 1, 0), 0x1122_3300);
    }
}
