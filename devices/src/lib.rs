// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Emulated device security manager behind a DOE socket.
//!
//! A second implementation of the device's half of SPDM 1.2 to 1.4, IDE_KM and TDISP 1.0, written from the
//! same facts as the firmware's half and sharing no code with it: a mistake of one is not agreed
//! with by the other. [`Dsm`] takes and gives whole DOE data objects; [`serve`] puts it behind the
//! socket that QEMU's NVMe controller connects to. The library prints nothing.

#![forbid(unsafe_code)]

mod certificate;
mod control;
mod crypto;
mod der;
mod doe;
mod dsm;
mod event;
mod fault;
mod function;
mod functions;
mod ide_km;
mod kcu;
mod link;
mod measurement;
mod qmp;
mod report;
mod secrets;
mod server;
mod spdm;
mod tdisp;

pub use certificate::{FUNCTION_NAME, Identity, IdentityPlan};
pub use control::{ControlListener, serve_control};
pub use crypto::{Cipher, Exchange, Hash, NoEntropy, Signing};
pub use dsm::{Config, Dsm, State};
pub use event::{Event, Observer, SessionEnd, SessionId};
pub use fault::{
    At, Fault, FaultCount, FaultPlan, Message, Occasion, Occurrence, PlanError, View, What,
};
pub use function::{Bar, Function, FunctionSource, FunctionView, Layout, Region};
pub use functions::InterfaceView;
pub use ide_km::StreamView;
pub use kcu::KeyUnit;
pub use link::{EndKeys, KEYS_PER_STREAM, KeySlot, LinkKey, LinkKeys, LinkStatus, NoRootPort};
pub use measurement::Measurements;
pub use qmp::MachineMonitor;
pub use secrets::Confidant;
pub use server::{SharedDsm, serve, start_clock};
pub use spdm::{Offer, UnknownName, Version};
pub use tdisp::TdiState;
