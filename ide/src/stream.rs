// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One selective stream, and what to do next to its two ends.

use crate::key::{End, Key, KeyMaterial, KeySet};
use crate::state::{Event, StreamState};

/// Reports that no key could be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoEntropy;

/// Why a stream refused. Its state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The event is not legal in this state.
    State,
    /// Actions are still to be done.
    Unfinished,
    /// No key could be generated.
    Entropy,
}

/// What to do to one end. Actions are done one at a time and answered by
/// [`Stream::acknowledge`] or [`Stream::fail`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give [`Stream::material`] to the end as this key.
    Program(End, Key),
    /// Make the end use the key.
    Go(End, Key),
    /// Make the end stop using the key and forget it.
    Stop(End, Key),
    /// Make the root port's registers say which packets take the stream, which is not enabled yet.
    Associate,
    /// Enable the stream at the root port.
    Enable,
    /// Disable the stream at the root port and make no packet take it.
    Clear,
}

impl Action {
    /// Returns the end that the action is for.
    #[must_use]
    pub const fn end(self) -> End {
        match self {
            Self::Program(end, _) | Self::Go(end, _) | Self::Stop(end, _) => end,
            Self::Associate | Self::Enable | Self::Clear => End::RootPort,
        }
    }
}

/// Which keys an end holds. One bit a key.
#[derive(Clone, Copy, Default)]
struct Holdings {
    /// Keys that were sent to the end, whether or not it said yes: it may hold them.
    touched: u16,
    /// Keys that the end said it has.
    programmed: u16,
    /// Keys that the end said it uses.
    going: u16,
}

/// What the root port's registers say about the stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registers {
    /// Nothing.
    Clear,
    /// Perhaps something: they were being written.
    Touched,
    /// Which packets take the stream.
    Associated,
    /// That too, and it is enabled.
    Enabled,
}

/// A stream between a root port and a device: its state, what each end holds, and the one key that
/// is on its way. The key is zeroed once both ends have it, on every failure, and on drop.
pub struct Stream {
    id: u8,
    state: StreamState,
    /// The key set in use. Meaningless in [`StreamState::Disconnected`].
    current: KeySet,
    device: Holdings,
    root_port: Holdings,
    registers: Registers,
    pending: Option<Action>,
    material: KeyMaterial,
}

impl Stream {
    /// Makes the stream `id`, disconnected.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self {
            id,
            state: StreamState::Disconnected,
            current: KeySet::K1,
            device: Holdings {
                touched: 0,
                programmed: 0,
                going: 0,
            },
            root_port: Holdings {
                touched: 0,
                programmed: 0,
                going: 0,
            },
            registers: Registers::Clear,
            pending: None,
            material: KeyMaterial::none(),
        }
    }

    /// Returns the stream id.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// Returns the state.
    #[must_use]
    pub const fn state(&self) -> StreamState {
        self.state
    }

    /// Returns the key set that protects packets now, if any does.
    #[must_use]
    pub const fn key_set(&self) -> Option<KeySet> {
        match self.state {
            StreamState::Connected | StreamState::Refreshing | StreamState::Purging => {
                Some(self.current)
            }
            _ => None,
        }
    }

    /// Begins to program the first key set.
    pub fn connect(&mut self) -> Result<(), Error> {
        self.moves(Event::Connect)?;
        self.current = KeySet::K1;
        Ok(())
    }

    /// Begins to program the key set that is not in use.
    pub fn refresh(&mut self) -> Result<(), Error> {
        self.moves(Event::Refresh)
    }

    /// Begins to stop the key set that is not in use, on both ends and whatever they hold of it: an
    /// end that kept a key of it by mistake has none afterwards.
    pub fn purge(&mut self) -> Result<(), Error> {
        self.moves(Event::Purge)?;
        for key in Key::of(self.current.other()) {
            for end in End::ALL {
                self.holdings(end).touched |= key.bit();
            }
        }
        Ok(())
    }

    /// Begins to stop all keys.
    pub fn disconnect(&mut self) -> Result<(), Error> {
        self.moves(Event::Disconnect)
    }

    /// Returns the action that is to be done now, the same one until it is answered; `None` when
    /// none is left and [`Self::complete`] may be called. `random` fills a fresh key.
    pub fn next(
        &mut self,
        random: &mut impl FnMut(&mut [u8; 32]) -> Result<(), NoEntropy>,
    ) -> Result<Option<Action>, Error> {
        if self.pending.is_some() {
            return Ok(self.pending);
        }
        let action = self.choose();
        if let Some(Action::Program(end, key)) = action {
            if self.material.is_none() {
                let filled = random(self.material.bytes_mut());
                // An all-zero key is a generator that does not work.
                if filled.is_err() || self.material.is_none() {
                    self.forget_key();
                    return Err(Error::Entropy);
                }
            }
            self.holdings(end).touched |= key.bit();
        }
        if action == Some(Action::Associate) {
            self.registers = Registers::Touched;
        }
        self.pending = action;
        Ok(action)
    }

    /// Returns the key to program while a [`Action::Program`] is to be done.
    #[must_use]
    pub const fn material(&self) -> Option<&KeyMaterial> {
        match self.pending {
            Some(Action::Program(..)) => Some(&self.material),
            _ => None,
        }
    }

    /// Notes that the action is done.
    pub fn acknowledge(&mut self) {
        match self.pending.take() {
            Some(Action::Program(end, key)) => {
                self.holdings(end).programmed |= key.bit();
                if self.device.programmed & self.root_port.programmed & key.bit() != 0 {
                    self.forget_key();
                }
            }
            Some(Action::Go(end, key)) => self.holdings(end).going |= key.bit(),
            Some(Action::Stop(end, key)) => self.drop_key(end, key),
            Some(Action::Associate) => self.registers = Registers::Associated,
            Some(Action::Enable) => self.registers = Registers::Enabled,
            Some(Action::Clear) => self.registers = Registers::Clear,
            None => {}
        }
    }

    /// Notes that the action failed, or that the next one cannot be had. What was begun is taken
    /// back on both ends by the actions that follow.
    ///
    /// A device that does not stop a key is taken for lost: without its peer a key protects
    /// nothing. A root port that does not stop a key, or does not forget the stream, is asked again.
    pub fn fail(&mut self) {
        let failed = self.pending.take();
        self.forget_key();
        if let Some(Action::Stop(End::Device, _)) = failed {
            self.device = Holdings::default();
        }
        let event = match failed {
            Some(Action::Go(end, key)) if key.is_transmitted_by(end) => Event::Fail,
            _ if self.new_keys_transmit() => Event::Fail,
            _ => Event::FailBeforeUse,
        };
        let after = self.state.after(event).or(self.state.after(Event::Fail));
        self.state = after.unwrap_or(self.state);
    }

    /// Notes that the device cannot be reached any more. It is asked nothing again; the stream has
    /// to go.
    pub fn lose_device(&mut self) {
        self.pending = None;
        self.forget_key();
        self.device = Holdings::default();
        let gone = self.state.after(Event::Disconnect);
        self.state = gone.or(self.state.after(Event::Fail)).unwrap_or(self.state);
    }

    /// Moves on when every action is done.
    pub fn complete(&mut self) -> Result<(), Error> {
        if self.pending.is_some() || self.choose().is_some() {
            return Err(Error::Unfinished);
        }
        let target = self.target();
        self.moves(Event::Complete)?;
        self.current = target.unwrap_or(self.current);
        Ok(())
    }

    fn moves(&mut self, event: Event) -> Result<(), Error> {
        self.state = self.state.after(event).ok_or(Error::State)?;
        Ok(())
    }

    fn forget_key(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.material);
    }

    const fn holdings(&mut self, end: End) -> &mut Holdings {
        match end {
            End::Device => &mut self.device,
            End::RootPort => &mut self.root_port,
        }
    }

    const fn held(&self, end: End) -> Holdings {
        match end {
            End::Device => self.device,
            End::RootPort => self.root_port,
        }
    }

    fn drop_key(&mut self, end: End, key: Key) {
        let holdings = self.holdings(end);
        holdings.touched &= !key.bit();
        holdings.programmed &= !key.bit();
        holdings.going &= !key.bit();
    }

    /// Returns the key set that is being brought up.
    const fn target(&self) -> Option<KeySet> {
        match self.state {
            StreamState::Connecting | StreamState::Refreshing => Some(self.current.other()),
            _ => None,
        }
    }

    /// Returns whether an end may already transmit with the set that is being brought up.
    fn new_keys_transmit(&self) -> bool {
        self.target().is_some_and(|set| {
            Key::of(set).any(|key| {
                End::ALL
                    .into_iter()
                    .any(|end| key.is_transmitted_by(end) && self.held(end).going & key.bit() != 0)
            })
        })
    }

    fn choose(&self) -> Option<Action> {
        match self.state {
            StreamState::Connected | StreamState::Disconnected => None,
            StreamState::Connecting => self
                .associate()
                .or_else(|| self.bring_up(self.current.other()))
                .or_else(|| self.enable()),
            StreamState::Refreshing => self
                .bring_up(self.current.other())
                .or_else(|| self.take_down(self.current)),
            StreamState::Purging => self.take_down(self.current.other()),
            StreamState::Disconnecting => self
                .take_down(KeySet::K0)
                .or_else(|| self.take_down(KeySet::K1))
                .or_else(|| self.clear()),
        }
    }

    fn associate(&self) -> Option<Action> {
        let is_done = matches!(self.registers, Registers::Associated | Registers::Enabled);
        (!is_done).then_some(Action::Associate)
    }

    fn enable(&self) -> Option<Action> {
        (self.registers != Registers::Enabled).then_some(Action::Enable)
    }

    /// The registers are cleared last: as long as packets take the stream and it has no key, they go
    /// nowhere.
    fn clear(&self) -> Option<Action> {
        (self.registers != Registers::Clear).then_some(Action::Clear)
    }

    /// Chooses the next step towards both ends using `set`: all keys first, then all receivers,
    /// then all transmitters, so that no packet meets a receiver without its key.
    fn bring_up(&self, set: KeySet) -> Option<Action> {
        let places = || Key::of(set).flat_map(|key| End::ALL.map(|end| (end, key)));
        let unprogrammed = places()
            .find(|(end, key)| self.held(*end).programmed & key.bit() == 0)
            .map(|(end, key)| Action::Program(end, key));
        let silent = |transmit: bool| {
            places()
                .filter(|(end, key)| key.is_transmitted_by(*end) == transmit)
                .find(|(end, key)| self.held(*end).going & key.bit() == 0)
                .map(|(end, key)| Action::Go(end, key))
        };
        unprogrammed
            .or_else(|| silent(false))
            .or_else(|| silent(true))
    }

    /// Chooses the next step towards neither end holding a key of `set`: transmitters first.
    fn take_down(&self, set: KeySet) -> Option<Action> {
        [true, false].into_iter().find_map(|transmit| {
            Key::of(set)
                .flat_map(|key| End::ALL.map(|end| (end, key)))
                .filter(|(end, key)| key.is_transmitted_by(*end) == transmit)
                .find(|(end, key)| self.held(*end).touched & key.bit() != 0)
                .map(|(end, key)| Action::Stop(end, key))
        })
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
