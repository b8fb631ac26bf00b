// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Builds, runs, tests and measures Portcullis.

fn main() {}
