// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An endpoint's IDE stream: its keys on both ends, and the two exchanges that must meet.
//!
//! A stream operation is pumped on both objects. The root port says that it is ready, the endpoint
//! does the work, the root port confirms, the endpoint ends; `STREAM_COMPLETE` closes it. The work
//! gives both ends the same six keys or leaves neither with any.

use tsm_abi::rmi::StreamState as WireStreamState;
use tsm_ide::{
    Action, Capability, End, INITIAL_IV, Key, NoEntropy, Shown, Stream, StreamState, SubStream,
    find_stream,
};
use tsm_platform::{ConfigSpace, Entropy, Granule, GranuleRange, Rid, RootPort, StreamRegisters};
use tsm_spdm::wire::pci_sig::ide_km::{
    self, Direction, IdeKey, Ifv, KeySet, KeySlot, KeyStatus, Message,
};
use zerocopy::little_endian::U32;

use super::super::comm::Trouble;
use super::super::pci::Function;

/// Port of the device that the stream ends at. A device of one port has no other.
const PORT_INDEX: u8 = 0;

/// How far the two exchanges of a stream operation have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No operation.
    Rest,
    /// Asked for; the root port moves first.
    Asked,
    /// The root port is ready: the endpoint does the work.
    PortReady,
    /// The work is done: the root port confirms.
    DeviceReady,
    /// The root port has confirmed: the endpoint ends.
    PortDone,
    /// Both exchanges are complete.
    Done,
}

/// The stream of an endpoint.
pub(crate) struct Link {
    /// Object of the root port.
    pub port: Granule,
    /// State, as the host sees it.
    pub state: WireStreamState,
    /// How far the present operation has come.
    pub phase: Phase,
    port_rid: Rid,
    keys: Stream,
    /// What the root port's registers must say while the stream is up.
    registers: StreamRegisters,
    /// Whether the present keys have protected packets of interfaces.
    pub usage: Usage,
    /// Whether something failed in the present operation; what was begun is being taken back.
    failed: bool,
    /// Whether the device has shown that its port takes keys of a stream that it does not have.
    surveyed: bool,
    /// Whether the device has shown the stream under the new keys.
    confirmed: bool,
}

/// Whether the present keys have protected packets of interfaces. What one interface left on its way
/// must not be good for the next (CVE-2025-9614), so keys do not outlive an interface that used them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Of none.
    Fresh,
    /// Of some, all of which exist.
    Used,
    /// Of one that does not exist any more. New keys are due before anything is locked over them.
    Due,
}

/// Returns the registers of a port as their index finds them.
fn shown(registers: &[U32], index: usize) -> Option<u32> {
    registers.get(index).map(|register| register.get())
}

/// Returns whether a port with these registers can be given the keys of a new stream `id`.
fn takes_keys(registers: &[U32], id: u8) -> bool {
    let can = |register| Capability::decode(register).takes_keys();
    shown(registers, 0).is_some_and(can)
        && find_stream(|index| shown(registers, index), id) == Shown::Nothing
}

/// Returns whether these registers show the stream `id` to be protected.
fn is_protected(registers: &[U32], id: u8) -> bool {
    find_stream(|index| shown(registers, index), id) == Shown::Stream { secure: true }
}

/// How the work of an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As asked.
    Done,
    /// The new keys were taken back, the old ones are in use.
    Kept,
    /// Neither end has a key.
    Gone,
}

impl Link {
    /// Makes a stream between the root port `port_rid`, whose object is `port`, and the endpoint, and
    /// begins to connect it. `registers` says which packets take it.
    pub fn connect(registers: StreamRegisters, port: Granule, port_rid: Rid) -> Option<Self> {
        let mut keys = Stream::new(registers.stream);
        keys.connect().ok()?;
        Some(Self {
            port,
            state: WireStreamState::Connecting,
            phase: Phase::Asked,
            port_rid,
            keys,
            registers: StreamRegisters {
                enabled: true,
                ..registers
            },
            usage: Usage::Fresh,
            failed: false,
            surveyed: false,
            confirmed: false,
        })
    }

    /// Begins to replace the keys.
    pub fn refresh(&mut self) -> bool {
        let begun = self.keys.refresh().is_ok();
        if begun {
            self.ask(WireStreamState::KeyRefreshing);
            self.confirmed = false;
        }
        begun
    }

    /// Begins to make both ends forget the key set that is not in use.
    pub fn purge(&mut self) -> bool {
        let begun = self.keys.purge().is_ok();
        if begun {
            self.ask(WireStreamState::KeyPurging);
        }
        begun
    }

    /// Begins to take the stream down. One that is lost already only has to end.
    pub fn disconnect(&mut self) -> bool {
        let begun = match self.keys.state() {
            StreamState::Connected => self.keys.disconnect().is_ok(),
            StreamState::Disconnecting | StreamState::Disconnected => true,
            _ => false,
        };
        if begun {
            self.ask(WireStreamState::Disconnecting);
        }
        begun
    }

    fn ask(&mut self, state: WireStreamState) {
        self.state = state;
        self.phase = Phase::Asked;
        self.failed = false;
        // The port does not change while the stream lives.
        self.surveyed = true;
        self.confirmed = true;
    }

    /// Notes that the operation is complete. New keys have protected packets only of the interfaces
    /// that the device has now.
    pub fn complete(&mut self, has_interfaces: bool) {
        let brought_keys = matches!(
            self.state,
            WireStreamState::Connecting | WireStreamState::KeyRefreshing
        );
        if brought_keys && self.usage == Usage::Due {
            self.usage = if has_interfaces {
                Usage::Used
            } else {
                Usage::Fresh
            };
        }
    }

    /// Notes that an interface of the device exists no more.
    pub fn leave(&mut self) {
        if self.usage == Usage::Used {
            self.usage = Usage::Due;
        }
    }

    /// Returns whether all of `ranges` is reached on the stream.
    pub fn covers(&self, ranges: &[GranuleRange]) -> bool {
        ranges.iter().all(|range| {
            let mut own = self.registers.ranges.iter().flatten();
            own.any(|own| own.base() <= range.base() && range.top() <= own.top())
        })
    }

    /// Returns whether an address of `ranges` is reached on the stream.
    pub fn overlaps(&self, ranges: &[Option<GranuleRange>]) -> bool {
        let mut own = self.registers.ranges.iter().flatten();
        own.any(|own| ranges.iter().flatten().any(|other| own.overlaps(*other)))
    }

    /// Returns whether the root port's registers say now what they must.
    pub fn is_in_place<P: RootPort>(&self, platform: &P) -> bool {
        self.reads_as(platform, Some(self.registers))
    }

    /// Returns whether `device` is still right below the root port, and its function `rid` below it.
    pub fn leads_to<P: ConfigSpace>(&self, platform: &P, device: Rid, rid: Rid) -> bool {
        let port = Function::new(platform, self.port_rid);
        port.is_right_above(device) && port.is_above(rid)
    }

    fn reads_as<P: RootPort>(&self, platform: &P, wanted: Option<StreamRegisters>) -> bool {
        platform.stream_read(self.port_rid, self.keys.id()) == Ok(wanted)
    }

    /// Returns the stream id.
    pub const fn id(&self) -> u8 {
        self.keys.id()
    }

    /// Returns whether both ends use the same key set.
    pub const fn is_secure(&self) -> bool {
        matches!(self.keys.state(), StreamState::Connected)
    }

    /// Returns whether a key set protects packets.
    pub const fn is_protecting(&self) -> bool {
        self.keys.key_set().is_some()
    }

    /// Returns whether neither end has a key.
    pub const fn is_down(&self) -> bool {
        matches!(self.keys.state(), StreamState::Disconnected)
    }

    /// Notes that the device cannot be reached, and stops the root port's keys.
    pub fn lose_device<P: RootPort>(&mut self, platform: &P) {
        self.keys.lose_device();
        let mut none = |_: &mut [u8; 32]| Err(NoEntropy);
        while let Ok(Some(action)) = self.keys.next(&mut none) {
            let done = action.end() == End::Device || self.at_root_port(platform, action);
            if !done {
                // A root port that does not stop a key is asked again at disconnection.
                self.keys.fail();
                return;
            }
            self.keys.acknowledge();
        }
        let _ = self.keys.complete();
    }

    /// Does the work of the operation up to the next message for the device, which is written into
    /// `out`; returns its length, or how the work ended.
    pub fn work<P: RootPort + Entropy>(
        &mut self,
        platform: &P,
        out: &mut [u8],
    ) -> Result<core::result::Result<usize, Ending>, Trouble> {
        let query = Message::Query {
            port_index: PORT_INDEX,
        };
        if !self.surveyed {
            return Ok(Ok(query.emit(out).map_err(|_| Trouble::Refused)?));
        }
        let mut random =
            |key: &mut [u8; 32]| platform.fill(key.as_mut_slice()).map_err(|_| NoEntropy);
        loop {
            match self.keys.next(&mut random) {
                Ok(Some(action)) if action.end() == End::Device => {
                    return Ok(Ok(self.message(action, out)?));
                }
                Ok(Some(action)) => {
                    if self.at_root_port(platform, action) {
                        self.keys.acknowledge();
                    } else {
                        self.fail();
                        if matches!(action, Action::Stop(..) | Action::Clear) {
                            return Err(Trouble::Session);
                        }
                    }
                }
                Ok(None) if !self.failed && !self.confirmed => {
                    return Ok(Ok(query.emit(out).map_err(|_| Trouble::Refused)?));
                }
                Ok(None) => return Ok(Err(self.end()?)),
                Err(_) => self.fail(),
            }
        }
    }

    /// Returns how an operation ends on a device that cannot be reached.
    pub const fn ending_without_device(&self) -> Ending {
        match (self.state, self.keys.state()) {
            (WireStreamState::Disconnecting, StreamState::Disconnected) => Ending::Done,
            (WireStreamState::Disconnecting, _) => Ending::Kept,
            _ => Ending::Gone,
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.keys.fail();
    }

    fn end(&mut self) -> Result<Ending, Trouble> {
        if self.keys.state() != StreamState::Disconnected {
            self.keys.complete().map_err(|_| Trouble::Session)?;
        }
        Ok(match self.keys.state() {
            _ if !self.failed => Ending::Done,
            StreamState::Connected => Ending::Kept,
            _ => Ending::Gone,
        })
    }

    /// Takes the device's answer to the message of [`Self::work`].
    pub fn take_answer(&mut self, payload: &[u8], device: Rid) -> Result<(), Trouble> {
        let message = Message::parse(payload);
        let mut none = |_: &mut [u8; 32]| Err(NoEntropy);
        // The action that is out is the same until it is answered; without one the device was asked
        // for its registers.
        let action = if self.surveyed {
            self.keys.next(&mut none).map_err(|_| Trouble::Session)?
        } else {
            None
        };
        let Some(action) = action else {
            self.take_registers(message.ok(), device);
            return Ok(());
        };
        let is_done = match (action, message) {
            (Action::Program(_, key), Ok(Message::KeyProgAck { slot, status })) => {
                slot == self.slot(key) && status == KeyStatus::SUCCESS
            }
            (Action::Go(_, key) | Action::Stop(_, key), Ok(Message::KeyGoStopAck(slot))) => {
                slot == self.slot(key)
            }
            _ => false,
        };
        if is_done {
            self.keys.acknowledge();
        } else {
            self.fail();
        }
        Ok(())
    }

    /// Takes what the device shows of its port, before the first key and under new keys.
    fn take_registers(&mut self, message: Option<Message<'_>>, device: Rid) {
        let [function, bus] = device.0.to_le_bytes();
        let id = self.keys.id();
        let is_good = match message {
            Some(Message::QueryResponse(response)) => {
                let is_its_port = response.port_index == PORT_INDEX
                    && response.bus == bus
                    && response.device_function == function;
                let is_as_wanted = if self.surveyed {
                    is_protected(response.registers, id)
                } else {
                    takes_keys(response.registers, id)
                };
                is_its_port && is_as_wanted
            }
            _ => false,
        };
        self.confirmed = self.surveyed;
        self.surveyed = true;
        if !is_good {
            self.fail();
        }
    }

    fn slot(&self, key: Key) -> KeySlot {
        KeySlot {
            stream_id: self.keys.id(),
            key_set: match key.set {
                tsm_ide::KeySet::K0 => KeySet::K0,
                tsm_ide::KeySet::K1 => KeySet::K1,
            },
            direction: if key.is_transmitted_by(End::Device) {
                Direction::Transmit
            } else {
                Direction::Receive
            },
            sub_stream: match key.sub_stream {
                SubStream::Posted => ide_km::SubStream::Posted,
                SubStream::NonPosted => ide_km::SubStream::NonPosted,
                SubStream::Completion => ide_km::SubStream::Completion,
            },
            port_index: PORT_INDEX,
        }
    }

    fn message(&self, action: Action, out: &mut [u8]) -> Result<usize, Trouble> {
        let message = match action {
            Action::Program(_, key) => {
                let material = self.keys.material().ok_or(Trouble::Session)?;
                Message::KeyProg {
                    slot: self.slot(key),
                    // Erased when the message is dropped.
                    key: IdeKey::new(*material.bytes()),
                    ifv: Ifv(INITIAL_IV),
                }
            }
            Action::Go(_, key) => Message::KeySetGo(self.slot(key)),
            Action::Stop(_, key) => Message::KeySetStop(self.slot(key)),
            // The root port's alone.
            Action::Associate | Action::Enable | Action::Clear => return Err(Trouble::Session),
        };
        message.emit(out).map_err(|_| Trouble::Session)
    }

    fn at_root_port<P: RootPort>(&self, platform: &P, action: Action) -> bool {
        let (port, id) = (self.port_rid, self.keys.id());
        let done = match action {
            Action::Program(_, key) => match self.keys.material() {
                Some(material) => {
                    let slot = key.root_port_slot(id);
                    platform.key_prog(port, slot, material.bytes(), INITIAL_IV)
                }
                None => return false,
            },
            Action::Go(_, key) => platform.key_set_go(port, key.root_port_slot(id)),
            Action::Stop(_, key) => platform.key_set_stop(port, key.root_port_slot(id)),
            Action::Associate | Action::Enable => {
                return self.set_registers(platform, action == Action::Enable);
            }
            Action::Clear => {
                return platform.stream_clear(port, id).is_ok() && self.reads_as(platform, None);
            }
        };
        done.is_ok()
    }

    /// Writes the root port's registers and reads them back.
    fn set_registers<P: RootPort>(&self, platform: &P, enabled: bool) -> bool {
        let registers = StreamRegisters {
            enabled,
            ..self.registers
        };
        platform.stream_set(self.port_rid, &registers).is_ok()
            && self.reads_as(platform, Some(registers))
    }
}
