// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a caller sees of the requester.

use super::offer::Offer;
use super::phase::Phase;
use super::workspace::Workspace;
use crate::crypto::{Fingerprint, PublicKey, RECORD_LIMIT, Random};
use crate::error::Error;
use crate::wire::Nonce;
use crate::wire::negotiation::Capabilities;
use crate::wire::record::OVERHEAD;
use crate::wire::session::SessionId;

/// Bytes of the largest transfer, record and all, that the device sends by default.
pub const MAX_MESSAGE: u32 = 4096;
/// Bytes that the output buffer has at least: no request is longer, even one that has to be sent in
/// chunks.
pub const MIN_BUFFER: usize = 2048;
/// What is announced leaves room for a record: a device need not count what that adds.
const DATA_TRANSFER_SIZE: u32 = 4072;
const _: () = assert!(DATA_TRANSFER_SIZE as usize + OVERHEAD == MAX_MESSAGE as usize);
/// Records after which keys are updated, unless the caller wants it sooner. What is left before the
/// limit is more than an operation takes, sent and fetched in the smallest chunks there are.
pub(super) const UPDATE_AFTER: u64 = RECORD_LIMIT - 4096;
/// A key update takes two records of the keys that it brings; others have to find room as well.
pub(super) const LEAST_UPDATE_AFTER: u64 = 4;

/// What the requester says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Capabilities announced. Those that would change the conversation are taken out.
    pub capabilities: Capabilities,
    /// Bytes of the largest message that the caller's response buffer takes, record and padding
    /// aside.
    pub data_transfer_size: u32,
    /// The requester's half of the session id; differs between sessions of one device.
    pub session_id: u16,
    /// Session policy: bit 0, the session outlives an update of the device's firmware, and the
    /// device is the one to end it.
    pub session_policy: u8,
    /// Whether a session begins with CHALLENGE. KEY_EXCHANGE authenticates the device as well.
    pub challenge: bool,
    /// Slot of the certificate chain that answers for the device, 0 to 7.
    pub slot: u8,
    /// What the device may choose from.
    pub offer: Offer,
    /// Records that one key of a session protects before it has to be updated: at least 4, and no
    /// more than the cipher is good for.
    pub update_after: u64,
}

impl Config {
    /// Capabilities that this requester has no code for.
    pub(super) const UNSUPPORTED: Capabilities = Capabilities::MUT_AUTH
        .union(Capabilities::ENCAP)
        .union(Capabilities::HANDSHAKE_IN_THE_CLEAR)
        .union(Capabilities::PUB_KEY_ID);

    /// Makes the usual configuration.
    #[must_use]
    pub const fn new(session_id: u16) -> Self {
        Self {
            capabilities: Capabilities::CERT
                .union(Capabilities::CHAL)
                .union(Capabilities::ENCRYPT)
                .union(Capabilities::MAC)
                .union(Capabilities::KEY_EX)
                .union(Capabilities::HBEAT)
                .union(Capabilities::KEY_UPD)
                .union(Capabilities::CHUNK),
            data_transfer_size: DATA_TRANSFER_SIZE,
            session_id,
            session_policy: 0,
            challenge: true,
            slot: 0,
            offer: Offer::ALL,
            update_after: UPDATE_AFTER,
        }
    }
}

/// Which kind of mailbox object a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Plain SPDM.
    Spdm,
    /// A secured record.
    Secured,
}

/// What the host keeps for the guest's verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// GET_VERSION to ALGORITHMS.
    Vca,
    /// The certificate chain.
    Certificate,
    /// MEASUREMENTS.
    Measurements,
}

/// Bytes of a buffer to append to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The object.
    pub object: Object,
    /// First byte, from the start of the buffer.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

/// What a caller can ask for.
#[derive(Clone, Copy)]
pub enum Operation {
    /// Agree on version, capabilities and algorithms, and read the certificate chain.
    Discover,
    /// Open a session with the device that has this key.
    Establish {
        /// The key, which must be that of the leaf certificate.
        key: PublicKey,
    },
    /// Read all measurements, signed.
    Measure {
        /// What makes the signature fresh.
        nonce: Nonce,
        /// Whether to ask for raw values rather than digests.
        raw: bool,
    },
    /// See whether the device still has the session.
    Heartbeat,
    /// Change the keys of both directions.
    UpdateKeys,
    /// End the session.
    End,
}

/// What a caller brings.
#[derive(Debug)]
pub enum Input<'a> {
    /// Nothing: an operation was just started.
    Begin,
    /// The answer to what was sent, with padding as the mailbox left it. A record is opened in
    /// place.
    Response(&'a mut [u8]),
}

/// What a caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send the start of the output buffer, and bring the answer.
    Send {
        /// Bytes to send.
        len: usize,
        /// As what.
        protocol: Protocol,
        /// Milliseconds to wait for the answer.
        timeout_ms: u32,
        /// Microseconds to wait before sending.
        delay_us: u32,
        /// What to keep of what is sent.
        cache_request: Option<Slice>,
        /// What to keep of the answer that was just brought.
        cache_response: Option<Slice>,
    },
    /// Nothing: the operation is done.
    Done {
        /// What came of it.
        outcome: Outcome,
        /// What to keep of the answer that was just brought.
        cache_response: Option<Slice>,
    },
}

/// Where a vendor's answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the response buffer.
    Response,
    /// In [`Workspace::message`], until the next step of any requester.
    Workspace,
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device's chain is known.
    Discovered,
    /// A session exists.
    Established {
        /// Its number.
        session: SessionId,
        /// Seconds within which the device wants a sign of life; 0 if it does not.
        heartbeat: u8,
    },
    /// The measurements are signed, fresh, and well formed.
    Measured {
        /// Number of blocks.
        blocks: u8,
    },
    /// The vendor's answer.
    Vendor {
        /// Where it stands.
        source: Source,
        /// First byte of the payload there.
        offset: usize,
        /// Bytes of the payload.
        len: usize,
    },
    /// The device has the session.
    Alive,
    /// New keys are in use.
    KeysUpdated,
    /// The session is over.
    Ended,
}

/// SHA-384 digests of what was agreed and read, whichever hash was agreed on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digests {
    pub(super) vca: Option<Fingerprint>,
    pub(super) certificate: Option<Fingerprint>,
    pub(super) public_key: Option<Fingerprint>,
    pub(super) measurements: Option<Fingerprint>,
}

impl Digests {
    /// Returns the digest of GET_VERSION to ALGORITHMS.
    #[must_use]
    pub const fn vca(&self) -> Option<&Fingerprint> {
        self.vca.as_ref()
    }

    /// Returns the digest of the certificate chain, its header included.
    #[must_use]
    pub const fn certificate(&self) -> Option<&Fingerprint> {
        self.certificate.as_ref()
    }

    /// Returns the digest of the uncompressed point that is the device's key.
    #[must_use]
    pub const fn public_key(&self) -> Option<&Fingerprint> {
        self.public_key.as_ref()
    }

    /// Returns the digest of the last MEASUREMENTS message.
    #[must_use]
    pub const fn measurements(&self) -> Option<&Fingerprint> {
        self.measurements.as_ref()
    }
}

/// What a TSM core needs of a requester, whoever wrote it.
pub trait SpdmRequester: Send + 'static {
    /// Starts an operation; [`step`](Self::step) with [`Input::Begin`] follows.
    ///
    /// # Errors
    /// An [`Error`] that is not fatal: nothing changed.
    fn start(&mut self, operation: Operation) -> Result<(), Error>;

    /// Starts a vendor-defined exchange with the PCI-SIG's `payload` and writes the request.
    ///
    /// # Errors
    /// [`Error`].
    fn start_vendor(
        &mut self,
        payload: &[u8],
        out: &mut [u8],
        workspace: &mut Workspace,
    ) -> Result<Output, Error>;

    /// Takes what the caller brings and says what to do.
    ///
    /// # Errors
    /// [`Error`].
    fn step(
        &mut self,
        input: Input<'_>,
        out: &mut [u8],
        workspace: &mut Workspace,
        random: Random<'_>,
    ) -> Result<Output, Error>;

    /// Returns the seconds within which the device wants a sign of life; 0 if it does not.
    fn heartbeat_period(&self) -> u8;

    /// Returns whether the next step needs the [`Workspace`] as the last one left it.
    fn uses_workspace(&self) -> bool;

    /// Returns the digests known so far.
    fn digests(&self) -> &Digests;

    /// Returns where the conversation is.
    fn phase(&self) -> Phase;
}
