// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Interrupts that the host's CPUs have the TSM deliver to each other.

use super::super::{cpu, exception, smp, svm};
use super::processors;
use crate::arch::confine::icr::{Action, Command};
use crate::arch::confine::requests::Requests;
use crate::layout::MAX_CPUS;

static REQUESTS: [Requests; MAX_CPUS] = [const { Requests::new() }; MAX_CPUS];

/// Returns the requests to CPU number `cpu`, as many of which boot has started as there are.
pub fn requests(cpu: usize) -> &'static Requests {
    REQUESTS.get(cpu).unwrap_or(&REQUESTS[0])
}

/// Performs an interrupt command of this CPU that is not for the local APIC.
pub fn send(command: Command, action: Action) {
    let own = cpu::index();
    let Some((_, own_id)) = processors().find(|(number, _)| *number == own) else {
        return;
    };
    for (number, other) in processors() {
        if command.targets(own_id, other) && requests(number).send(action) {
            smp::kick(number);
        }
    }
}

/// Waits until the host starts this CPU, number `own`; returns the page where it starts.
pub fn wait(own: usize) -> u8 {
    loop {
        exception::stay_if_stopped();
        if let Some(page) = requests(own).take_start() {
            return page;
        }
        svm::wait();
    }
}
