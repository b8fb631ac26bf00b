// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The functions of the device: each has an interface of its own, all share sessions and streams.

use crate::event::{Event, SessionId};
use crate::function::{Function, FunctionSource, FunctionView};
use crate::ide_km::Streams;
use crate::spdm::Refusal;
use crate::tdisp::{Interface, Surroundings, TdiState, named_function};

/// What others may know about an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceView {
    /// Requester id of its function, where it is known.
    pub rid: Option<u16>,
    /// TDISP state.
    pub state: TdiState,
}

/// Says why a lock is broken. It gets the session that locked, the stream, what the function was
/// then and what it is now.
type Judge<'a> =
    &'a dyn Fn(SessionId, u8, &FunctionView, Option<&FunctionView>) -> Option<&'static str>;

struct Member {
    source: Box<dyn FunctionSource>,
    interface: Interface,
    /// The requester id that the machine told last.
    rid: Option<u16>,
}

/// All functions, in the order in which the device was made of them.
pub(crate) struct Functions(Vec<Member>);

impl Functions {
    pub(crate) fn new(functions: impl IntoIterator<Item = Function>) -> Self {
        let member = |(number, function): (usize, Function)| Member {
            source: function.source,
            interface: Interface::new(number, function.layout),
            rid: None,
        };
        Self(functions.into_iter().enumerate().map(member).collect())
    }

    /// Returns whether the machine was reset since the last call.
    pub(crate) fn take_reset(&mut self) -> bool {
        // All are asked: what one remembers must not come up later.
        self.0
            .iter_mut()
            .fold(false, |reset, member| member.source.take_reset() | reset)
    }

    /// Returns what is known of the first function.
    pub(crate) fn first(&mut self) -> Option<FunctionView> {
        self.0.first_mut().and_then(|member| member.source.view())
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = InterfaceView> {
        self.0.iter().map(|member| InterfaceView {
            rid: member.rid,
            state: member.interface.state(),
        })
    }

    /// Returns the place of the function that `rid` names. One whose place is not known yet may be
    /// any.
    fn find(&mut self, rid: u16) -> usize {
        let mut names = self.0.iter_mut().map(|member| {
            let view = member.source.view();
            member.interface.name(view.as_ref())
        });
        let names: Vec<Option<u16>> = names.by_ref().collect();
        let known = names.iter().position(|name| *name == Some(rid));
        let unknown = names.iter().position(Option::is_none);
        known.or(unknown).unwrap_or(0)
    }

    /// Answers a TDISP message; the protocol byte is stripped on both sides.
    pub(crate) fn handle(
        &mut self,
        message: &[u8],
        session: SessionId,
        streams: &Streams,
        room: usize,
        note: &mut dyn FnMut(Event),
    ) -> Result<Vec<u8>, Refusal> {
        let rid = named_function(message).ok_or(Refusal::InvalidRequest)?;
        let place = self.find(rid);
        let member = self.0.get_mut(place).ok_or(Refusal::InvalidRequest)?;
        let around = Surroundings {
            session,
            function: member.source.view(),
            streams,
            room,
        };
        member.interface.handle(message, &around, note)
    }

    /// Breaks the locks for which `broken` says why.
    pub(crate) fn check(&mut self, note: &mut dyn FnMut(Event), broken: Judge<'_>) {
        for member in &mut self.0 {
            let Member {
                source,
                interface,
                rid,
            } = member;
            let view = source.view();
            *rid = interface.name(view.as_ref());
            interface.check(note, |session, stream, locked| {
                broken(session, stream, locked, view.as_ref())
            });
        }
    }

    /// Resets one function: that with the requester id `rid`, or the first.
    pub(crate) fn reset_function(&mut self, rid: Option<u16>, note: &mut dyn FnMut(Event)) {
        let place = rid.map_or(0, |rid| self.find(rid));
        if let Some(member) = self.0.get_mut(place) {
            member.interface.function_reset(note);
        }
    }

    /// Goes back to the state after power-on.
    pub(crate) fn reset(&mut self) {
        for member in &mut self.0 {
            member.interface.reset();
        }
    }
}
