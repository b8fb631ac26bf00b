// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Monitor and TSM images for QEMU virt with FEAT_RME.

#![no_std]
