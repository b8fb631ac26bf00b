// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TSM image for QEMU q35 with SVM.

#![no_std]
