// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host's CPUs ask of each other: interrupts that the TSM does not let them send themselves.

use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use super::icr::Action;

/// Requests to one CPU.
#[derive(Debug)]
pub struct Requests {
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

impl Requests {
    /// Makes the requests to a CPU that runs.
    pub const fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            start: AtomicU16::new(0),
            nmi: AtomicBool::new(false),
        }
    }

    /// Leaves a request. The CPU has to be woken up for it, if this returns true.
    pub fn send(&self, action: Action) -> bool {
        match action {
            Action::Stop => {
                // A start that was sent before is void, one that is sent later is not.
                self.start.store(0, Ordering::SeqCst);
                self.nmi.store(false, Ordering::SeqCst);
                self.stop.store(true, Ordering::SeqCst);
                true
            }
            Action::Start(page) => {
                let listens = self.stop.load(Ordering::SeqCst) || self.waits.load(Ordering::SeqCst);
                // One that runs takes no notice of a start.
                if listens {
                    self.start.store(STARTS | u16::from(page), Ordering::SeqCst);
                }
                listens
            }
            Action::NonMaskable => {
                self.nmi.store(true, Ordering::SeqCst);
                true
            }
            Action::Forward | Action::Nothing | Action::Refuse => false,
        }
    }

    /// Returns whether the CPU is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Returns whether the CPU is to take a non-maskable interrupt, and forgets it.
    pub fn take_nmi(&self) -> bool {
        self.nmi.load(Ordering::Relaxed) && self.nmi.swap(false, Ordering::SeqCst)
    }

    /// Returns the page of a start, if one was sent. Until then the CPU has to wait and ask again.
    pub fn take_start(&self) -> Option<u8> {
        // In this order: a stop ends with the CPU listening, and a start that is there was sent after
        // the last stop.
        self.waits.store(true, Ordering::SeqCst);
        self.stop.store(false, Ordering::SeqCst);
        let start = self.start.swap(0, Ordering::SeqCst);
        if start & STARTS == 0 {
            return None;
        }
        self.waits.store(false, Ordering::SeqCst);
        Some(start as u8)
    }
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::{Action, Requests};

    #[test]
    fn a_start_counts_for_a_cpu_that_was_stopped() {
        let cpu = Requests::new();
        assert!(!cpu.send(Action::Start(1)));
        assert!(cpu.send(Action::Stop));
        // Both come before the CPU has seen the first of them.
        assert!(cpu.send(Action::Start(2)));
        assert!(cpu.is_stopped());
        assert_eq!(cpu.take_start(), Some(2));
        assert!(!cpu.is_stopped());
        assert!(!cpu.send(Action::Start(3)));
    }

    #[test]
    fn a_stop_takes_back_what_was_sent_before() {
        let cpu = Requests::new();
        assert_eq!(cpu.take_start(), None);
        assert!(cpu.send(Action::Start(2)));
        cpu.send(Action::NonMaskable);
        cpu.send(Action::Stop);
        assert_eq!(cpu.take_start(), None);
        assert!(!cpu.take_nmi());
        assert!(cpu.send(Action::Start(3)));
        assert_eq!(cpu.take_start(), Some(3));
    }

    #[test]
    fn a_non_maskable_interrupt_is_taken_once() {
        let cpu = Requests::new();
        assert!(!cpu.take_nmi());
        assert!(cpu.send(Action::NonMaskable));
        assert!(cpu.take_nmi() && !cpu.take_nmi());
    }

    #[test]
    fn commands_of_the_local_apic_are_no_requests() {
        let cpu = Requests::new();
        for action in [Action::Forward, Action::Nothing, Action::Refuse] {
            assert!(!cpu.send(action));
        }
    }

    /// One thread is a CPU, the other stops it and starts it again at once, time after time. The last
    /// start must always be the one that the CPU runs from in the end.
    #[test]
    fn no_start_after_a_stop_is_lost() {
        const ROUNDS: u32 = 1_000;
        let cpu = &Requests::new();
        let ran = &AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                while ran.load(Ordering::SeqCst) < ROUNDS {
                    if !cpu.is_stopped() {
                        spin_loop();
                        continue;
                    }
                    while cpu.take_start().is_none() {
                        spin_loop();
                    }
                    ran.fetch_add(1, Ordering::SeqCst);
                }
            });
            for round in 1..=ROUNDS {
                cpu.send(Action::Stop);
                assert!(cpu.send(Action::Start(0)));
                while ran.load(Ordering::SeqCst) < round {
                    thread::yield_now();
                }
            }
        });
    }
}
