// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Traits that a platform implements for the TSM core, and address types.

#![cfg_attr(not(test), no_std)]
