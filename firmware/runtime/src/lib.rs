// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Entry, vectors, page tables and hardware access of the TSM.

#![cfg_attr(not(test), no_std)]
