// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Root monitor at EL3: granule protection, world switch, PSCI.

#![cfg_attr(not(test), no_std)]
