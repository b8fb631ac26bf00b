// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From registers to a handler and back.

use core::hash::{Hash, Hasher};

use tsm_abi::rmi::{Call, REGISTERS};
use tsm_platform::{Rid, TraceRecord};

use crate::context::{Context, Machine};
use crate::device::{self, Devices};
use crate::error::{Error, Reply, Result};
use crate::granule::{Locks, Region, Table};
use crate::realm::{Realm, Running, Vmids};
use crate::rtt::{Initial, Output};
use crate::system::Activation;
use crate::{ownership, realm, rec, rtt, system};

/// The state of the TSM that is not in donated granules.
pub struct Tsm {
    pub(crate) activation: Activation,
    pub(crate) devices: Devices,
    pub(crate) granules: Table,
    pub(crate) running: Running,
    pub(crate) vmids: Vmids,
}

impl Tsm {
    /// Makes a TSM that owns none of the granules of `regions`.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(regions: &'static [Region]) -> Self {
        Self {
            activation: Activation::new(),
            devices: Devices::new(),
            granules: Table::new(regions),
            running: Running::new(),
            vmids: Vmids::new(),
        }
    }

    /// Returns the table of granules.
    #[must_use]
    pub const fn granules(&self) -> &Table {
        &self.granules
    }

    /// Feeds what a call may change of the state outside granules to `hasher`: a test can tell whether
    /// anything changed.
    pub fn observe(&self, hasher: &mut impl Hasher) {
        self.activation.is_active().hash(hasher);
        self.vmids.observe(hasher);
        self.running.observe(hasher);
        self.devices.lock(core::hint::spin_loop).observe(hasher);
    }

    /// Returns whether no part of a message to or from a device is kept: a test can tell whether a call
    /// left one, which may hold a key.
    #[must_use]
    pub fn keeps_no_message(&self) -> bool {
        self.devices.lock(core::hint::spin_loop).is_quiet()
    }

    /// Answers one call of the host, who put `function` into x0 and `arguments` into x1 to x7.
    /// Returns x0 to x7; x0 is the status word.
    pub fn host_call<P: Machine>(
        &self,
        platform: &P,
        function: u64,
        arguments: &[u64; REGISTERS],
    ) -> [u64; 8] {
        let locks = Locks::default();
        let context = Context {
            tsm: self,
            platform,
            locks: &locks,
        };
        let outcome = match Call::decode(function, arguments) {
            Ok(call) => gate(&context, call),
            Err(_) => Err(Error::NotSupported),
        };
        // A lock that outlives its call is a fault of ours; the guard's owner is gone.
        let outcome = if locks.is_empty() {
            outcome
        } else {
            Err(Error::Global)
        };
        let registers = outcome.map_or_else(Error::registers, Reply::registers);
        let [a, b, c, ..] = *arguments;
        let [status, ..] = registers;
        platform.call(TraceRecord {
            function,
            arguments: [a, b, c],
            status,
        });
        registers
    }

    /// Performs a host access of `width` bytes (1, 2 or 4) to configuration space and returns the
    /// value read (zero for a write). A refused read is all ones; a refused write has no effect.
    pub fn host_config_access<P: Machine>(
        &self,
        platform: &P,
        rid: Rid,
        offset: u16,
        width: u8,
        write: Option<u32>,
    ) -> u32 {
        let locks = Locks::default();
        let context = Context {
            tsm: self,
            platform,
            locks: &locks,
        };
        device::config_access(&context, rid, offset, width, write)
    }
}

/// Lets only what is needed to activate through before activation.
fn gate<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    match call {
        Call::Version { requested } => Ok(system::version(requested)),
        Call::Features { index } => Ok(system::feature(index)),
        Call::RmmConfigSet { config } => system::set_config(context, config),
        Call::RmmConfigGet { config } => system::get_config(context, config),
        Call::RmmActivate {} => system::activate(context),
        _ if !context.tsm.activation.is_active() => Err(Error::Global),
        call => granule_call(context, call),
    }
}

fn granule_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    match call {
        Call::GranuleRangeDelegate { start, end } => ownership::delegate(context, start, end),
        Call::GranuleRangeUndelegate { start, end } => ownership::undelegate(context, start, end),
        Call::GranuleTrackingGet { base, top } => ownership::tracking(context, base, top),
        call => table_call(context, call),
    }
}

fn table_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    match call {
        Call::RttCreate {
            rd,
            rtt: table,
            ipa,
            level,
        } => context.with_realm(rd, |realm| rtt::create(context, realm, table, ipa, level)),
        Call::RttDestroy { rd, ipa, level } => {
            context.with_realm(rd, |realm| rtt::destroy(context, realm, ipa, level))
        }
        Call::RttFold { rd, ipa, level } => {
            context.with_realm(rd, |realm| rtt::fold(context, realm, ipa, level))
        }
        Call::RttReadEntry { rd, ipa, level } => {
            context.with_realm(rd, |realm| rtt::read_entry(context, realm, ipa, level))
        }
        Call::RttInitRipas { rd, base, top } => {
            context.with_realm(rd, |realm| rtt::init_ripas(context, realm, base, top))
        }
        Call::RttDataMapInit {
            rd,
            data,
            ipa,
            src: source,
            flags,
        } => {
            let initial = Initial {
                data,
                ipa,
                source,
                flags,
            };
            context.with_realm(rd, |realm| rtt::data_map_init(context, realm, initial))
        }
        call => range_call(context, call),
    }
}

fn range_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    type Work<P> = fn(&Context<'_, P>, &Realm, (u64, u64), Output) -> Result;
    let (work, rd, range, flags, address): (Work<P>, _, _, _, _) = match call {
        Call::RttDataMap {
            rd,
            base,
            top,
            flags,
            oaddr,
        } => (rtt::data_map, rd, (base, top), flags, oaddr),
        Call::RttDataUnmap {
            rd,
            base,
            top,
            flags,
            oaddr,
        } => (rtt::data_unmap, rd, (base, top), flags, oaddr),
        Call::RttUnprotMap {
            rd,
            base,
            top,
            flags,
            oaddr,
        } => (rtt::unprot_map, rd, (base, top), flags, oaddr),
        Call::RttUnprotUnmap {
            rd,
            base,
            top,
            flags,
            oaddr,
        } => (rtt::unprot_unmap, rd, (base, top), flags, oaddr),
        call => return realm_call(context, call),
    };
    let output = Output { flags, address };
    context.with_realm(rd, |realm| work(context, realm, range, output))
}

fn realm_call<P: Machine>(context: &Context<'_, P>, call: Call) -> Result {
    match call {
        Call::RealmCreate { rd, params } => realm::create(context, rd, params),
        Call::RealmActivate { rd } => realm::activate(context, rd),
        Call::RealmTerminate { rd } => realm::terminate(context, rd),
        Call::RealmDestroy { rd } => realm::destroy(context, rd),
        Call::RecCreate { rd, rec, params } => rec::create(context, rd, rec, params),
        Call::RecDestroy { rec } => rec::destroy(context, rec),
        Call::RecEnter { rec, run } => rec::enter(context, rec, run),
        Call::RttSetRipas { rd, rec, base, top } => rec::set_ripas(context, rd, rec, base, top),
        Call::PsciComplete {
            calling_rec,
            target_rec,
            status,
        } => rec::psci_complete(context, calling_rec, target_rec, status),
        call => device::host_call(context, call),
    }
}
