// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks this crate against one SPDM 1.2 session recorded between two instances of another
//! implementation.
//!
//! The recording is not part of the repository: `PORTCULLIS_VECTORS` names the directory that holds
//! `spdm-1.2-p384/session.json`. Without it these tests say that they skip, and pass.
//!
//! `walk` takes the recording apart with the wire formats and recomputes every value that the
//! cryptography yields. `drive` lets the real requester relive it.

mod drive;
mod recording;
mod walk;
