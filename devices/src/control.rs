// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket: one JSON object a line, one line in answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::dsm::State;
use crate::fault::{FaultPlan, What};
use crate::server::{SharedDsm, lock};

/// Longest line that is read.
const LINE_LIMIT: u64 = 1 << 20;

/// What may be asked, by the value of `command`.
#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
enum Command {
    /// Tells the state.
    State {},
    /// Conventional reset; inserts a device that was removed.
    Reset {},
    /// Function-level reset of a function, or of the first.
    Flr { function: Option<u16> },
    /// All streams fail.
    LinkDown {},
    /// Forgets all sessions.
    LoseSession {},
    /// The device is gone.
    Remove {},
    /// The device answers nothing.
    Hang {},
    /// Takes a fault plan: its text.
    Load { plan: String },
    /// Takes no fault plan any more.
    Clear {},
    /// Ends the server.
    Quit {},
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Quit,
}

/// Where controllers connect.
pub enum ControlListener {
    /// A socket in the file system.
    Unix(UnixListener),
    /// A port; who binds it sees to it that only this machine reaches it.
    Tcp(TcpListener),
}

/// Serves controllers one after the other until one of them says `quit`.
///
/// # Errors
/// The listener cannot accept any more.
pub fn serve_control(listener: &ControlListener, dsm: &SharedDsm) -> io::Result<()> {
    loop {
        // A controller that leaves in the middle of a line is no error of ours.
        let next = match listener {
            ControlListener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                converse(&stream, &stream, dsm)
            }
            ControlListener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                converse(&stream, &stream, dsm)
            }
        };
        if matches!(next, Ok(Next::Quit)) {
            return Ok(());
        }
    }
}

fn converse(input: impl Read, mut output: impl Write, dsm: &SharedDsm) -> io::Result<Next> {
    let mut input = BufReader::new(input);
    loop {
        let mut line = String::new();
        if input.by_ref().take(LINE_LIMIT).read_line(&mut line)? == 0 {
            return Ok(Next::Go);
        }
        let (answer, next) = match serde_json::from_str(&line) {
            Ok(command) => obey(command, dsm),
            Err(error) => (json!({ "error": error.to_string() }), Next::Go),
        };
        writeln!(output, "{answer}")?;
        if next == Next::Quit {
            return Ok(next);
        }
    }
}

fn obey(command: Command, dsm: &SharedDsm) -> (Value, Next) {
    let mut dsm = lock(dsm);
    let what = match command {
        Command::State {} => {
            let mut answer = state(&dsm.state());
            answer["silent"] = json!(dsm.is_silent());
            return (answer, Next::Go);
        }
        Command::Load { plan } => {
            let answer = match plan.parse() {
                Ok(plan) => {
                    dsm.load_faults(plan);
                    json!({ "ok": true })
                }
                Err(error) => json!({ "error": error.to_string() }),
            };
            return (answer, Next::Go);
        }
        Command::Clear {} => {
            dsm.load_faults(FaultPlan::default());
            return (json!({ "ok": true }), Next::Go);
        }
        Command::Quit {} => return (json!({ "ok": true }), Next::Quit),
        Command::Reset {} => What::Reset,
        Command::Flr { function } => What::FunctionReset(function),
        Command::LinkDown {} => What::LinkDown,
        Command::LoseSession {} => What::LoseSession,
        Command::Remove {} => What::Remove,
        Command::Hang {} => What::Hang,
    };
    (json!({ "ok": dsm.inflict(&what) }), Next::Go)
}

/// Writes the state down. It has no secret.
fn state(state: &State) -> Value {
    let session = |(id, established): &(crate::SessionId, bool)| json!({ "id": id.to_string(), "established": established });
    let stream = |stream: &crate::StreamView| {
        json!({
            "id": stream.id,
            "session": stream.session.to_string(),
            "programmed": stream.programmed,
            "in-use": stream.in_use,
            "secure": stream.status.secure,
            "opened": stream.status.opened,
            "failed": stream.status.failed,
        })
    };
    let interface = |interface: &crate::InterfaceView| json!({ "rid": interface.rid, "state": interface.state.to_string() });
    let fault = |fault: &crate::FaultCount| json!({ "what": fault.what, "seen": fault.seen, "fired": fault.fired });
    json!({
        "sessions": state.sessions.iter().map(session).collect::<Vec<_>>(),
        "streams": state.streams.iter().map(stream).collect::<Vec<_>>(),
        "interfaces": state.interfaces.iter().map(interface).collect::<Vec<_>>(),
        "faults": state.faults.iter().map(fault).collect::<Vec<_>>(),
    })
}
