// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The socket that QEMU's DOE mailbox, or an emulated requester, connects to.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::TcpStreamExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Dsm;
use crate::event::Event;
use crate::fault::Occasion;

/// Commands of a frame.
mod command {
    pub(super) const NORMAL: u32 = 0x0001;
    pub(super) const CONTINUE: u32 = 0xfffd;
    pub(super) const SHUTDOWN: u32 = 0xfffe;
    pub(super) const UNKNOWN: u32 = 0xffff;
    pub(super) const TEST: u32 = 0xdead;
}

/// Transport type of a PCI DOE data object.
const TRANSPORT_PCI_DOE: u32 = 2;
/// Bytes of a frame before its payload.
const FRAME_HEADER: usize = 12;
/// Largest payload that is read at all: the largest data object, 2^18 words.
const PAYLOAD_LIMIT: usize = 1 << 20;
/// Time that the rest of a frame may take once it began.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks at the machine and the link.
const TICK: Duration = Duration::from_millis(10);

/// A device that the server and its clock share.
pub type SharedDsm = Arc<Mutex<Dsm>>;

pub(crate) fn lock(dsm: &SharedDsm) -> MutexGuard<'_, Dsm> {
    dsm.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread that lets time pass for `dsm` until the device is dropped elsewhere.
pub fn start_clock(dsm: &SharedDsm) {
    let dsm = Arc::downgrade(dsm);
    thread::spawn(move || {
        while let Some(dsm) = dsm.upgrade() {
            lock(&dsm).tick(Instant::now());
            drop(dsm);
            thread::sleep(TICK);
        }
    });
}

/// Serves connections one after the other; each begins with a device as after power-on, unless the
/// device keeps its state.
///
/// # Errors
/// The listener cannot accept any more.
pub fn serve(listener: &TcpListener, dsm: &SharedDsm) -> io::Result<()> {
    loop {
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let mut device = lock(dsm);
        device.note(Event::Connected);
        device.happen(Occasion::Connect);
        drop(device);
        // However a connection ends, the next requester must be able to start.
        let _ = serve_connection(stream, dsm);
        lock(dsm).disconnect();
    }
}

/// What to do after a frame.
enum Next {
    Reply(u32, Vec<u8>),
    /// The same, some time later.
    Late(Duration, Vec<u8>),
    Close(u32),
}

fn serve_connection(stream: TcpStream, dsm: &SharedDsm) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = Quick(stream);
    loop {
        let mut header = [0; FRAME_HEADER];
        // The wait for a new frame has no end; the wait for the rest of one has.
        stream.0.set_read_timeout(None)?;
        stream.read_exact(&mut header[..1])?;
        stream.0.set_read_timeout(Some(FRAME_TIMEOUT))?;
        stream.read_exact(&mut header[1..])?;
        let [command, transport, length] = words(header);
        let payload = stream.payload(length as usize)?;
        match answer(command, transport, payload.as_deref(), dsm) {
            Next::Reply(command, payload) => stream.frame(command, transport, &payload)?,
            Next::Late(delay, payload) => {
                thread::sleep(delay);
                stream.frame(command::NORMAL, transport, &payload)?;
            }
            Next::Close(command) => return stream.frame(command, transport, &[]),
        }
    }
}

fn words(header: [u8; FRAME_HEADER]) -> [u32; 3] {
    [0, 4, 8]
        .map(|at| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
}

fn answer(command: u32, transport: u32, payload: Option<&[u8]>, dsm: &SharedDsm) -> Next {
    let mut dsm = lock(dsm);
    match (command, payload) {
        (command::NORMAL, Some(object)) if transport == TRANSPORT_PCI_DOE => {
            // No answer is an empty frame: QEMU waits for a frame without end, and discards an
            // empty one as a mailbox does.
            let answer = dsm.handle_doe(object).unwrap_or_default();
            Next::Late(dsm.take_delay(), answer)
        }
        (command::NORMAL, _) => {
            dsm.note(Event::Malformed("frame of another transport, or too long"));
            Next::Reply(command::NORMAL, vec![])
        }
        (command::TEST, _) => Next::Reply(command::TEST, b"Server Hello!\0".to_vec()),
        (command::CONTINUE | command::SHUTDOWN, _) => Next::Close(command),
        _ => {
            dsm.note(Event::Malformed("frame with an unknown command"));
            Next::Reply(command::UNKNOWN, vec![])
        }
    }
}

/// A stream that acknowledges at once: the other side sends a frame in several small writes without
/// TCP_NODELAY, and a delayed acknowledgment would cost 40 ms each.
struct Quick(TcpStream);

impl Read for Quick {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.set_quickack(true)?;
        self.0.read(out)
    }
}

impl Quick {
    /// Reads a payload; one that is too long is read and thrown away.
    fn payload(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        if length > PAYLOAD_LIMIT {
            let dropped = io::copy(&mut self.by_ref().take(length as u64), &mut io::sink())?;
            return if dropped == length as u64 {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let mut payload = vec![0; length];
        self.read_exact(&mut payload)?;
        Ok(Some(payload))
    }

    fn frame(&mut self, command: u32, transport: u32, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
        for word in [command, transport, payload.len() as u32] {
            frame.extend(word.to_be_bytes());
        }
        frame.extend(payload);
        self.0.write_all(&frame)
    }
}
