// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the bare-metal host and guest payloads share.

#![cfg_attr(not(test), no_std)]
