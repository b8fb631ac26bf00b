// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A crash at every step: host, guest, device or virtual machine monitor dies at each call of the
//! way of an interface, from the building of its guest to the last call of the teardown.
//!
//! A host that knows a journal of addresses takes everything back with the published calls, in the
//! order of each vendor and in a bounded number of calls. After each of them no access is there that
//! the states do not allow. Then the same machine, whose device is restarted, goes the way again.

#[path = "../plan/flow.rs"]
mod flow;
#[path = "../random/oracle.rs"]
mod oracle;
mod reclaim;
#[path = "../rig/mod.rs"]
mod rig;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use flow::{Step, access_remains, go};
use reclaim::{ORDERS, reclaim, sweep, terminate};
use rig::Rig;
use tsm_abi::rmi::{RecEnter, TeardownOrder};
use tsm_devices::{At, Fault, FaultPlan, Occasion, What};
use tsm_platform::{Access, ConfigSpace, GuestExit};
use tsm_platform_fake::{ENDPOINT, Function, fault};
use watch::{Event, Stopped, Watch};
use zerocopy::FromZeros;

/// Most calls that taking everything back may cost, the sweep over all memory included.
const MOST_CALLS: usize = 128;
/// Steps at which one machine crashes: its host never uses a page twice.
const STEPS_PER_MACHINE: usize = 20;

/// Who dies, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The host, which does not see the reply to its last call.
    Host,
    /// A guest that never runs again.
    GuestStops,
    /// A guest that switches itself off.
    GuestSwitchesOff,
    /// A guest that runs wild.
    GuestFaults,
    /// A device that answers nothing any more.
    Silence,
    /// A device that is not there any more.
    Pull,
    /// A device that the host resets, or its interface if the TSM lets it.
    FunctionReset,
    /// A device that has lost all its state.
    Reset,
    /// A virtual machine monitor, for whose realm nobody cares any more.
    Monitor,
}

impl Death {
    const fn event(self) -> Event {
        match self {
            Self::Host => Event::StopAfter,
            Self::Silence => Event::Silence,
            Self::Pull => Event::Pull,
            _ => Event::StopBefore,
        }
    }
}

/// A machine that crashes again and again.
struct Machine {
    rig: Rig,
    watch: Watch,
    endpoint: Function,
}

impl Machine {
    fn new() -> Self {
        let rig = Rig::bare(Vec::new());
        let watch = Watch::over(&rig);
        let endpoint = rig.host.fake.function(ENDPOINT).unwrap();
        Self {
            rig,
            watch,
            endpoint,
        }
    }

    /// Goes the whole way of an interface: its guest is built, it works, and all of it goes again.
    fn way(&mut self, order: TeardownOrder) -> Result<(), Step> {
        self.rig.order = order;
        self.rig.build_guest();
        self.watch.meet(self.rig.vcpu());
        go(&mut self.rig)?;
        reclaim(&mut self.rig, &self.watch.journal(), order);
        Ok(())
    }

    /// Restarts everything but the TSM.
    fn restart(&mut self, event: Option<(usize, Event)>) {
        self.rig.forget_script();
        self.rig.clear();
        self.rig
            .host
            .fake
            .set_function(ENDPOINT, self.endpoint.clone());
        self.rig.host.fake.forget_history();
        self.rig.traffic.clear();
        self.watch.begin(event);
        let watch = self.watch.clone();
        self.rig.tamper = Some(Box::new(move |_, _| !watch.is_silent()));
    }

    /// Goes the whole way as if nothing had ever happened, and returns its calls.
    fn go_whole_way(&mut self, order: TeardownOrder) -> usize {
        self.restart(None);
        assert_eq!(self.way(order), Ok(()), "the way is free again");
        let calls = self.watch.calls();
        sweep(&self.rig);
        self.assert_everything_back();
        calls
    }

    fn assert_everything_back(&self) {
        assert!(!access_remains(&self.rig));
        assert_eq!(self.rig.root_port_keys(), 0);
        assert!(self.rig.host.has_everything_back());
    }

    /// Lets somebody die at call `at` of the way and takes everything back. Returns how many calls
    /// that took.
    fn crash(&mut self, death: Death, at: usize, order: TeardownOrder) -> usize {
        self.restart(Some((at, death.event())));
        let ended = catch_unwind(AssertUnwindSafe(|| self.way(order)));
        if let Err(payload) = ended
            && !payload.is::<Stopped>()
        {
            resume_unwind(payload);
        }
        self.watch.disarm();
        self.rig.forget_script();
        self.die(death);
        oracle::check(&self.rig.host);

        let before = self.watch.calls();
        let journal = self.watch.journal();
        if death == Death::Monitor {
            terminate(&self.rig, &journal);
        }
        reclaim(&mut self.rig, &journal, order);
        sweep(&self.rig);
        let calls = self.watch.calls() - before;
        assert!(calls <= MOST_CALLS, "{calls} calls");
        self.assert_everything_back();
        calls
    }

    /// Does what is left to do of a death when the host has stopped.
    fn die(&mut self, death: Death) {
        match death {
            Death::GuestSwitchesOff => self.rig.host.fake.script().call(&[0x8400_0008]),
            Death::GuestFaults => {
                let wild = fault(0x3f_f000, Access::Write);
                let script = self.rig.host.fake.script();
                script.then(move |_, _| GuestExit::Fault(wild));
            }
            Death::FunctionReset => self.reset_function(),
            Death::Reset => self.happen(What::Reset),
            _ => {}
        }
        if matches!(death, Death::GuestSwitchesOff | Death::GuestFaults) && self.rig.realm.rec != 0
        {
            // Refused while the guest waits for the host, or is not active.
            let entry = RecEnter::new_zeroed();
            let _ = self.rig.host.enter_with(&self.rig.realm, &entry);
            self.rig.forget_script();
        }
    }

    /// Has the host ask for a function level reset. The TSM cuts a bound interface off instead.
    fn reset_function(&mut self) {
        const CONTROL: u16 = 0x48;
        const INITIATE: u32 = 0x8000;
        let host = &self.rig.host;
        let old = host.fake.config_read(ENDPOINT, CONTROL, 2);
        let value = Some(old | INITIATE);
        host.tsm
            .host_config_access(&host.fake, ENDPOINT, CONTROL, 2, value);
        if host.fake.config_read(ENDPOINT, CONTROL, 2) != old {
            self.happen(What::FunctionReset(None));
        }
    }

    fn happen(&mut self, what: What) {
        let faults = vec![Fault::new(At::Event(Occasion::Tick), what)];
        self.rig.dsm.load_faults(FaultPlan { faults });
        self.rig.refresh();
    }
}

/// Lets somebody die at each call of the way, in each order. The ways to die take turns. After each
/// order the machine goes as far as the next death, and after all of them the whole way.
fn crash_everywhere(who: &str, deaths: &[Death]) {
    let mut machine = Machine::new();
    let steps = machine.go_whole_way(TeardownOrder::UnmapFirst);
    let (mut cases, mut worst) = (0, 0);
    for at in 0..steps {
        if at % STEPS_PER_MACHINE == 0 {
            machine = Machine::new();
        }
        for (index, order) in ORDERS.into_iter().enumerate() {
            let death = deaths[(at + index) % deaths.len()];
            let outcome = catch_unwind(AssertUnwindSafe(|| machine.crash(death, at, order)));
            let calls = outcome.unwrap_or_else(|payload| {
                eprintln!("{death:?} at call {at}, {order:?}");
                resume_unwind(payload)
            });
            worst = worst.max(calls);
            cases += 1;
        }
        machine.go_whole_way(ORDERS[at % ORDERS.len()]);
    }
    println!("crash: {who}: {steps} steps x 3 orders = {cases} cases, worst reclaim {worst} calls");
}

#[test]
fn the_host_has_everything_back_after_it_died_at_any_step() {
    crash_everywhere("host", &[Death::Host]);
}

#[test]
fn the_host_has_everything_back_after_the_guest_died_at_any_step() {
    let deaths = [
        Death::GuestStops,
        Death::GuestSwitchesOff,
        Death::GuestFaults,
    ];
    crash_everywhere("guest", &deaths);
}

#[test]
fn the_host_has_everything_back_after_the_device_died_at_any_step() {
    let deaths = [
        Death::Silence,
        Death::Pull,
        Death::FunctionReset,
        Death::Reset,
    ];
    crash_everywhere("device", &deaths);
}

#[test]
fn the_host_has_everything_back_after_the_monitor_died_at_any_step() {
    crash_everywhere("monitor", &[Death::Monitor]);
}
