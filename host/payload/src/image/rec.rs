// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Running the guest and answering its exits.

use tsm_abi::rhi;
use tsm_abi::rmi::{Call, ExitReason, RecEnter, RecEnterFlags, RecExit};
use tsm_payload_support::println;
use zerocopy::FromZeros;
use zerocopy::little_endian::U64;

use super::flow::Host;
use super::layout::{Page, Slot};
use super::memory;
use super::processor::registers;
use super::report::{self, check, step};
use super::rmi::{self, Result, must};
use super::{rhi as server, vdev};

const RD: u64 = Slot::Rd.address();
const REC: u64 = Slot::Rec.address();
/// Where the TSM's part of the run page starts.
const EXIT_OFFSET: u64 = 0x800;
const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;
/// Immediate of the host call by which the guest says that it works with its device and waits for
/// the host to do its worst.
const PHASE_IMMEDIATE: u16 = 2;
/// The answer to it that makes the guest use its disk without asking the TSM first.
const CARELESS: u64 = 0x636c_6573;
/// A guest that exits more often than this is lost.
const MOST_EXITS: u32 = 200_000;

/// Why the run loop came back.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The guest works with the device; call [`Vcpu::run`] again to let it go on.
    Workload,
    /// The guest switched itself off.
    Off,
    /// The guest did something that it has no reason to do.
    Lost(&'static str, u64),
}

/// The virtual CPU as the host sees it.
#[derive(Debug)]
pub struct Vcpu {
    enter: RecEnterState,
    line: Line,
    /// Exits so far.
    pub exits: u32,
}

/// What the next entry brings.
#[derive(Debug)]
struct RecEnterState {
    flags: RecEnterFlags,
    gprs: [u64; 31],
}

/// The line that the guest is printing.
#[derive(Debug)]
struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl Line {
    /// Takes a byte; returns whether it ends a line.
    fn push(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            return true;
        }
        // Only text: a guest does not get to send control codes to the terminal.
        if (b' '..=b'~').contains(&byte) && self.used < self.bytes.len() {
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        false
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Vcpu {
    /// Returns a virtual CPU that has not run.
    pub const fn new() -> Self {
        Self {
            enter: RecEnterState {
                flags: RecEnterFlags::empty(),
                gprs: [0; 31],
            },
            line: Line {
                bytes: [0; 512],
                used: 0,
            },
            exits: 0,
        }
    }

    /// Runs the guest until something happens that the flow must know.
    ///
    /// # Errors
    /// A call that the TSM refused.
    pub fn run(&mut self, host: &mut Host) -> Result<Event> {
        while self.exits < MOST_EXITS {
            self.exits += 1;
            let exit = self.enter()?;
            let reason = exit.exit_reason.get();
            let event = match ExitReason::from_word(reason) {
                Some(ExitReason::HostCall) => self.host_call(host, &exit),
                Some(ExitReason::VdevRequest) => Self::vdev_request(host, &exit)?,
                Some(ExitReason::DevMemMap) => {
                    self.map_device(host, &exit);
                    None
                }
                Some(ExitReason::RipasChange) => {
                    self.ripas_change(&exit);
                    None
                }
                Some(ExitReason::Psci) => Some(match exit.gprs[0].get() {
                    PSCI_SYSTEM_OFF => Event::Off,
                    function => Event::Lost("a power call", function),
                }),
                Some(ExitReason::Irq | ExitReason::Fiq) => None,
                Some(ExitReason::Sync) => Some(Event::Lost("an exception", exit.esr.get())),
                _ => Some(Event::Lost("an exit reason", reason)),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
        Ok(Event::Lost("too many exits", u64::from(self.exits)))
    }

    /// Makes the guest that has just told its phase use its disk without asking the TSM first.
    pub fn make_careless(&mut self) {
        self.enter.gprs[0] = CARELESS;
    }

    fn enter(&mut self) -> Result<RecExit> {
        let mut enter = RecEnter::new_zeroed();
        enter.flags.set(self.enter.flags.bits());
        enter.gprs = self.enter.gprs.map(U64::new);
        self.enter.flags = RecEnterFlags::empty();
        self.enter.gprs = [0; 31];
        let run = Page::Run.address();
        memory::store(run, &enter);
        let call = Call::RecEnter { rec: REC, run };
        if self.exits == 1 {
            enter_with_pattern(&call);
        } else {
            must(&call)?;
        }
        Ok(memory::load(run + EXIT_OFFSET))
    }

    fn host_call(&mut self, host: &mut Host, exit: &RecExit) -> Option<Event> {
        let mut gprs = exit.gprs.map(U64::get);
        let mut event = None;
        match u16::try_from(exit.imm.get()) {
            Ok(rhi::IMMEDIATE) => server::serve(host, &mut gprs),
            Ok(rhi::CONSOLE_IMMEDIATE) => self.print(&gprs),
            Ok(PHASE_IMMEDIATE) => event = Some(Event::Workload),
            _ => event = Some(Event::Lost("a host call", u64::from(exit.imm.get()))),
        }
        self.enter.gprs = gprs;
        event
    }

    /// Prints what the guest says. Its checks count like the host's own.
    fn print(&mut self, gprs: &[u64; 31]) {
        let count = (gprs[0] as usize).min(rhi::CONSOLE_BYTES);
        let bytes = gprs[1..].iter().flat_map(|register| register.to_le_bytes());
        for byte in bytes.take(count) {
            if !self.line.push(byte) {
                continue;
            }
            let text = self.line.text();
            let failed = text.strip_suffix(b"| FAIL");
            let printable = |text| core::str::from_utf8(text).unwrap_or("?");
            match failed {
                Some(text) if report::is_lenient() => println!("NOTE {}", printable(text)),
                Some(_) => {
                    report::count_failure();
                    println!("{}", printable(text));
                }
                None if report::is_quiet() => {}
                None => println!("{}", printable(text)),
            }
            self.line.used = 0;
        }
    }

    fn vdev_request(host: &mut Host, exit: &RecExit) -> Result<Option<Event>> {
        let id = exit.vdev_id_1.get();
        if id != vdev::id(&host.topology) || !host.bound {
            return Ok(Some(Event::Lost("an unknown device id", id)));
        }
        must(&Call::VdevComplete {
            rec: REC,
            vdev: Slot::Vdev.address(),
        })?;
        if !host.told_complete {
            host.told_complete = true;
            step(
                "24b",
                format_args!("REC exit VDEV_REQUEST, RMI_VDEV_COMPLETE"),
                format_args!("id {id:#06x} named to the TSM"),
            );
        }
        Ok(None)
    }

    /// Maps the device memory that the guest wants validated, or rejects the wish.
    fn map_device(&mut self, host: &mut Host, exit: &RecExit) {
        let (base, top) = (exit.dev_mem_base.get(), exit.dev_mem_top.get());
        let address = exit.dev_mem_pa.get();
        let bytes = top.saturating_sub(base);
        let bar = host.topology.disk.bar0();
        let inside = address >= bar
            && bytes != 0
            && address
                .checked_add(bytes)
                .is_some_and(|end| end <= bar + vdev::BAR_SIZE);
        if !inside {
            println!("NOTE rejected: device memory {address:#x}, {bytes:#x} bytes");
            self.enter.flags |= RecEnterFlags::DEV_MEM_RESPONSE;
            return;
        }
        if let Err(refused) = give_device_memory(base, top, address) {
            println!("NOTE rejected: {refused}");
            self.enter.flags |= RecEnterFlags::DEV_MEM_RESPONSE;
            return;
        }
        host.mapped.push(base, top, address);
        step(
            "30",
            format_args!("RMI_GRANULE_RANGE_DELEGATE, RMI_RTT_DEV_MAP, RMI_RTT_DEV_VALIDATE"),
            format_args!("device memory {address:#x} at guest address {base:#x}, {bytes:#x} bytes"),
        );
    }

    /// Lets the guest change what its memory is.
    fn ripas_change(&mut self, exit: &RecExit) {
        let (base, top) = (exit.ripas_base.get(), exit.ripas_top.get());
        let changed = rmi::over_range(base, top, |next| Call::RttSetRipas {
            rd: RD,
            rec: REC,
            base: next,
            top,
        });
        if let Err(refused) = changed {
            println!("NOTE rejected: {refused}");
            self.enter.flags |= RecEnterFlags::RIPAS_RESPONSE;
        }
    }
}

/// Enters the guest for the first time and sees that the host's registers are as they were. Whether
/// the call was refused shows in the exit structure.
fn enter_with_pattern(call: &Call) {
    let (function, arguments) = call.encode();
    let changed = registers::changed_by(function, [arguments[0], arguments[1]]);
    check(
        "registers-survive-a-guest",
        format_args!("{}; changed bits {changed:#x}", registers::WHICH),
        changed == 0,
    );
}

/// Takes device memory from this host and maps it into the realm; on failure it stays the host's.
fn give_device_memory(base: u64, top: u64, address: u64) -> Result<()> {
    let end = address + (top - base);
    rmi::delegate(address, end)?;
    let mapped = vdev::map(base, top, address).and_then(|()| vdev::validate(base, top));
    if mapped.is_err() {
        let _ = vdev::unmap(base, top);
        rmi::undelegate(address, end)?;
    }
    mapped
}
