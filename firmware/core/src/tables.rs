// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tables that say what may happen when: the handlers use them, and models and documents can
//! walk them.

use core::fmt::{self, Debug, Write};

/// Device interfaces.
pub mod interface {
    pub use crate::device::tdisp::{
        CUT_OFF, DESTROYABLE, GRANTS, Grant, InterfaceState, MOST_RETRIES, REFUSALS, Refusal,
        Request, State, Step, TRANSITIONS, TdispError, Transition, Verdict, find, judge_refusal,
    };
}

/// Physical devices and root ports.
pub mod device {
    pub use crate::device::pdev::{Event, State, TRANSITIONS};
}

/// IDE streams.
pub mod stream {
    pub use tsm_ide::{Event, StreamState as State, TRANSITIONS, Transition};
}

const HEAD: &str = "# States

Made by `cargo xtask abi` from the tables that the code runs on (`tsm_core::tables`). What has no row
is refused and changes nothing.
";

const INTERFACE: &str = "
## Device interface

The host's requests. The state moves when the device has answered the last step as it must; what it
answers is compared with what is believed, never adopted.

| state | request | state after | steps |
|---|---|---|---|
";

const INTERFACE_REST: &str = "
An interface is cut off (DMA, then private mappings, then the state) when its device refuses or
contradicts a step, when its session or stream ends, and when the host disturbs it or its path.

| state | after the cut | guest may turn on | may be destroyed |
|---|---|---|---|
";

const REFUSALS: &str = "
What becomes of an exchange when the device answers a step with a TDISP error. The first row that fits
counts.

| step | error | exchange |
|---|---|---|
";

const DEVICE: &str = "
## Physical device

| state | event | state after |
|---|---|---|
";

const STREAM: &str = "
## IDE stream

| state | event | state after |
|---|---|---|
";

/// Writes every table as Markdown.
///
/// # Errors
/// Those of `out`.
pub fn markdown(out: &mut impl Write) -> fmt::Result {
    out.write_str(HEAD)?;
    out.write_str(INTERFACE)?;
    for row in interface::TRANSITIONS {
        write!(out, "| {:?} | {:?} | {:?} |", row.from, row.request, row.to)?;
        list(out, row.steps)?;
    }
    out.write_str(INTERFACE_REST)?;
    for (state, after) in interface::CUT_OFF {
        write!(out, "| {state:?} | {after:?} |")?;
        let rows = interface::GRANTS.iter();
        for (at, (_, grant)) in rows.filter(|row| row.0 == state).enumerate() {
            let comma = if at == 0 { " " } else { ", " };
            write!(out, "{comma}{grant:?}")?;
        }
        let is_destroyable = interface::DESTROYABLE.contains(&state);
        writeln!(out, " | {} |", if is_destroyable { "yes" } else { "no" })?;
    }
    out.write_str(REFUSALS)?;
    for row in interface::REFUSALS {
        out.write_str("|")?;
        match row.step {
            Some(step) => write!(out, " {step:?} |")?,
            None => out.write_str(" any |")?,
        }
        match row.code {
            Some(code) => write!(out, " {:#x} |", code.0)?,
            None => out.write_str(" any |")?,
        }
        match row.verdict {
            interface::Verdict::Retry => {
                writeln!(out, " Retry, {} times |", interface::MOST_RETRIES)?;
            }
            verdict => writeln!(out, " {verdict:?} |")?,
        }
    }
    out.write_str(DEVICE)?;
    for (from, event, to) in device::TRANSITIONS {
        writeln!(out, "| {from:?} | {event:?} | {to:?} |")?;
    }
    out.write_str(STREAM)?;
    for row in stream::TRANSITIONS {
        writeln!(out, "| {:?} | {:?} | {:?} |", row.from, row.event, row.to)?;
    }
    Ok(())
}

fn list(out: &mut impl Write, items: &[impl Debug]) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { " " } else { ", " };
        write!(out, "{comma}{item:?}")?;
    }
    out.write_str(" |\n")
}
