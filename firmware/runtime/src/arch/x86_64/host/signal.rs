// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host's CPUs ask of each other: interrupts that the TSM does not let them send themselves.

use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use super::super::{cpu, exception, smp, svm};
use super::processors;
use crate::arch::confine::icr::{Action, Command};
use crate::layout::MAX_CPUS;

/// Requests to one CPU.
struct Requests {
    /// An INIT: the CPU stops and waits for a start.
    stop: AtomicBool,
    /// The CPU waits for a start.
    waits: AtomicBool,
    /// A start: [`STARTS`] and the page, or zero.
    start: AtomicU16,
    /// A non-maskable interrupt.
    nmi: AtomicBool,
}

const STARTS: u16 = 0x100;

/// All CPUs but the first one wait from the start on.
static REQUESTS: [Requests; MAX_CPUS] = [const {
    Requests {
        stop: AtomicBool::new(false),
        waits: AtomicBool::new(false),
        start: AtomicU16::new(0),
        nmi: AtomicBool::new(false),
    }
}; MAX_CPUS];

fn requests(cpu: usize) -> &'static Requests {
    // A CPU whose number is too large has not been started by boot.
    REQUESTS.get(cpu).unwrap_or(&REQUESTS[0])
}

/// Performs an interrupt command of this CPU that is not for the local APIC.
pub fn send(command: Command, action: Action) {
    let own = cpu::index();
    let id = |number| processors().find(|(cpu, _)| *cpu == number);
    let Some((_, own_id)) = id(own) else { return };
    for (number, other) in processors() {
        if !command.targets(own_id, other) {
            continue;
        }
        let target = requests(number);
        match action {
            Action::Stop => {
                target.start.store(0, Ordering::SeqCst);
                target.nmi.store(false, Ordering::SeqCst);
                target.stop.store(true, Ordering::SeqCst);
            }
            Action::Start(page) => {
                // One that runs takes no notice of a start.
                let listens =
                    target.stop.load(Ordering::SeqCst) || target.waits.load(Ordering::SeqCst);
                if !listens {
                    continue;
                }
                target
                    .start
                    .store(STARTS | u16::from(page), Ordering::SeqCst);
            }
            Action::NonMaskable => target.nmi.store(true, Ordering::SeqCst),
            _ => continue,
        }
        if number != own {
            smp::kick(number);
        }
    }
}

/// Returns whether this CPU, number `own`, is to stop.
pub fn is_stopped(own: usize) -> bool {
    requests(own).stop.load(Ordering::SeqCst)
}

/// Returns whether this CPU is to take a non-maskable interrupt, and forgets it.
pub fn take_nmi(own: usize) -> bool {
    let nmi = &requests(own).nmi;
    nmi.load(Ordering::Relaxed) && nmi.swap(false, Ordering::SeqCst)
}

/// Waits until the host starts this CPU, number `own`; returns the page where it starts.
pub fn wait(own: usize) -> u8 {
    let own = requests(own);
    // In this order: a start that is sent between the two is not lost.
    own.waits.store(true, Ordering::SeqCst);
    own.stop.store(false, Ordering::SeqCst);
    loop {
        exception::stay_if_stopped();
        let start = own.start.swap(0, Ordering::SeqCst);
        if start & STARTS != 0 && !own.stop.load(Ordering::SeqCst) {
            own.waits.store(false, Ordering::SeqCst);
            return start as u8;
        }
        own.stop.store(false, Ordering::SeqCst);
        svm::wait();
    }
}
