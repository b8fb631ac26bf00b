// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the requester does when the device, or whoever carries its messages, lies.
//!
//! `responder` is a device that can be told to lie at any place. `carrier` bends bytes on their way,
//! blindly and everywhere; `lies` is the table of lies that a device tells with a straight face,
//! signed and sealed; `manners` is about order, refusals and
//! limits; `chunks` about large messages; `records` and `sessions` about what follows what. Scenario ids are those of the
//! project's list of scenarios.

mod carrier;
mod chunker;
mod chunks;
mod identity;
mod lies;
mod manners;
mod records;
mod responder;
mod sessions;
mod suites;
