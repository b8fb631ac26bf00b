// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Renders the tables as Markdown and as a C header.

use core::fmt::{self, Write};

use crate::{MemoryRequest, RhiStatus, RmiCode, RsiStatus};
use crate::{Row, Value, WireField, rhi, rmi, rsi};

type Structure = (&'static str, &'static str, &'static [WireField]);

const STRUCTURES: &[Structure] = &[
    ("rmi", "rmm_config", rmi::RmmConfig::LAYOUT),
    ("rmi", "realm_params", rmi::RealmParams::LAYOUT),
    ("rmi", "rec_params", rmi::RecParams::LAYOUT),
    ("rmi", "rec_enter", rmi::RecEnter::LAYOUT),
    ("rmi", "rec_exit", rmi::RecExit::LAYOUT),
    ("rmi", "rec_run", rmi::RecRun::LAYOUT),
    ("rmi", "dev_comm_enter", rmi::DevCommEnter::LAYOUT),
    ("rmi", "dev_comm_exit", rmi::DevCommExit::LAYOUT),
    ("rmi", "dev_comm_data", rmi::DevCommData::LAYOUT),
    ("rmi", "pdev_params", rmi::PdevParams::LAYOUT),
    ("rmi", "public_key_params", rmi::PublicKeyParams::LAYOUT),
    ("rmi", "pdev_stream_params", rmi::PdevStreamParams::LAYOUT),
    ("rmi", "vdev_params", rmi::VdevParams::LAYOUT),
    ("rmi", "vdev_measure_params", rmi::VdevMeasureParams::LAYOUT),
    ("rmi", "psmmu_params", rmi::PsmmuParams::LAYOUT),
    ("rsi", "realm_config", rsi::RealmConfig::LAYOUT),
    ("rsi", "host_call", rsi::HostCall::LAYOUT),
    ("rsi", "vdev_info", rsi::VdevInfo::LAYOUT),
];

const SETS: &[(&str, &[Value])] = &[
    ("RMI_STATUS", RmiCode::VALUES),
    ("RSI_STATUS", RsiStatus::VALUES),
    ("RHI_STATUS", RhiStatus::VALUES),
    ("RMI_RIPAS", rmi::Ripas::VALUES),
    ("RMI_RTT_ENTRY", rmi::RttEntryState::VALUES),
    ("RMI_PDEV", rmi::PdevState::VALUES),
    ("RMI_STREAM", rmi::StreamState::VALUES),
    ("RMI_VDEV", rmi::VdevState::VALUES),
    ("RMI_VDEV_DMA", rmi::VdevDmaState::VALUES),
    ("RMI_PSMMU", rmi::PsmmuState::VALUES),
    ("RMI_HASH", rmi::HashAlgorithm::VALUES),
    ("RMI_SIGNATURE", rmi::SignatureAlgorithm::VALUES),
    ("RMI_EXIT", rmi::ExitReason::VALUES),
    ("RMI_COMM_STATUS", rmi::CommStatus::VALUES),
    ("RMI_COMM_OBJECT", rmi::CommObject::VALUES),
    ("RMI_COMM_PROTOCOL", rmi::CommProtocol::VALUES),
    ("RMI_PDEV_CATEGORY", rmi::PdevCategory::VALUES),
    ("RMI_STREAM_TYPE", rmi::StreamType::VALUES),
    ("RMI_MEMORY_REQUEST", MemoryRequest::VALUES),
    ("RMI_RESPONSE", rmi::Response::VALUES),
    ("RMI_TEARDOWN", rmi::TeardownOrder::VALUES),
    ("RMI_ADDRESS_TYPE", rmi::AddressType::VALUES),
    ("RMI_BLOCK_SIZE", rmi::BlockSize::VALUES),
    ("RSI_DEVICE", rsi::DeviceState::VALUES),
    ("RHI_OBJECT", rhi::Object::VALUES),
    ("RHI_TDI", rhi::TdiState::VALUES),
];

/// Name, number, arguments in registers 1 and on, results in registers 0 and on.
type GuestToHost = (&'static str, u64, &'static str, &'static str);

const RHI_FUNCTIONS: &[GuestToHost] = &[
    ("RHI_DA_VERSION", rhi::DA_VERSION, "", "version"),
    ("RHI_DA_FEATURES", rhi::DA_FEATURES, "", "features"),
    (
        "RHI_DA_OBJECT_SIZE",
        rhi::DA_OBJECT_SIZE,
        "vdev_id, object",
        "status, size",
    ),
    (
        "RHI_DA_OBJECT_READ",
        rhi::DA_OBJECT_READ,
        "vdev_id, object, shared_ipa, bytes, offset",
        "status, bytes",
    ),
    (
        "RHI_DA_VDEV_CONTINUE",
        rhi::DA_VDEV_CONTINUE,
        "vdev_id",
        "status",
    ),
    (
        "RHI_DA_VDEV_GET_MEASUREMENTS",
        rhi::DA_VDEV_GET_MEASUREMENTS,
        "vdev_id, shared_ipa",
        "status",
    ),
    (
        "RHI_DA_VDEV_GET_INTERFACE_REPORT",
        rhi::DA_VDEV_GET_INTERFACE_REPORT,
        "vdev_id",
        "status",
    ),
    (
        "RHI_DA_VDEV_SET_TDI_STATE",
        rhi::DA_VDEV_SET_TDI_STATE,
        "vdev_id, state",
        "status",
    ),
    (
        "RHI_DA_VDEV_P2P_UNBIND",
        rhi::DA_VDEV_P2P_UNBIND,
        "vdev_id",
        "status",
    ),
    ("RHI_DA_VDEV_ABORT", rhi::DA_VDEV_ABORT, "vdev_id", "status"),
];

/// Writes `name` in lower case with `_` between words, or in upper case.
fn snake(out: &mut dyn Write, name: &str, upper: bool) -> fmt::Result {
    let mut previous_is_word = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && previous_is_word {
            out.write_char('_')?;
        }
        previous_is_word = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        out.write_char(if upper {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        })?;
    }
    Ok(())
}

fn names(out: &mut dyn Write, names: &[&str]) -> fmt::Result {
    for (index, name) in names.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(out, "{comma}{name}")?;
    }
    Ok(())
}

fn rows(out: &mut dyn Write, rows: &[Row]) -> fmt::Result {
    writeln!(
        out,
        "| function | call | arguments | results | answered | what it does |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for row in rows {
        write!(out, "| `{:08x}` | {} | ", row.function, row.name)?;
        names(out, row.arguments)?;
        out.write_str(" | ")?;
        names(out, row.results)?;
        let answered = if row.implemented { "yes" } else { "no" };
        writeln!(out, " | {answered} | {} |", row.about)?;
    }
    Ok(())
}

/// Writes the calls, values and structures as a Markdown document.
///
/// # Errors
/// Whatever `out` fails with.
pub fn markdown(out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "# Calls\n\nMade by `cargo xtask abi` from `firmware/abi`: do not edit.\n\n\
         Register 0 holds the function id and, on return, the status; arguments and results follow \
         in the order given. Registers that a call does not use are ignored. A host call that is \
         not answered returns `RMI_STATUS_NOT_SUPPORTED`, a guest call all ones.\n\n\
         ## Host (RMI)\n\nThe status is a code in bits 7:0 and an index in bits 15:8.\n\n",
    )?;
    rows(out, rmi::ROWS)?;
    writeln!(
        out,
        "\nRMI_FEATURES of index `{:08x}` returns in bits 7:0 which orders RMI_TEARDOWN are accepted, \
         bit n for order n.",
        rmi::features::TEARDOWN
    )?;
    out.write_str("\n## Guest (RSI)\n\n")?;
    rows(out, rsi::ROWS)?;
    out.write_str("\n## Guest to host (RHI)\n\nCarried by `RSI_HOST_CALL`.\n\n")?;
    out.write_str("| function | call | arguments | results |\n|---|---|---|---|\n")?;
    for (name, function, arguments, results) in RHI_FUNCTIONS {
        writeln!(
            out,
            "| `{function:08x}` | {name} | {arguments} | {results} |"
        )?;
    }
    out.write_str("\n## Values\n\n| set | values |\n|---|---|\n")?;
    for (set, values) in SETS {
        write!(out, "| {set} | ")?;
        for (index, value) in values.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(out, "{separator}{} ", value.number)?;
            snake(out, value.name, false)?;
        }
        out.write_str(" |\n")?;
    }
    out.write_str("\n## Structures\n\nOffset and size in bytes. Bytes between are reserved.\n")?;
    for (interface, name, fields) in STRUCTURES {
        write!(
            out,
            "\n### {interface}_{name}\n\n| offset | size | field |\n|---|---|---|\n"
        )?;
        for field in fields.iter().filter(|field| !field.name.starts_with('_')) {
            writeln!(
                out,
                "| {:#05x} | {:#x} | {} |",
                field.offset, field.size, field.name
            )?;
        }
    }
    Ok(())
}

/// Writes the calls, values and structure offsets as a C header.
///
/// # Errors
/// Whatever `out` fails with.
pub fn c_header(out: &mut dyn Write) -> fmt::Result {
    out.write_str(
        "/* SPDX-License-Identifier: Apache-2.0 OR MIT */\n\
         /* Made by `cargo xtask abi` from firmware/abi: do not edit. */\n\
         #ifndef PORTCULLIS_ABI_H\n#define PORTCULLIS_ABI_H\n\n",
    )?;
    for row in rmi::ROWS
        .iter()
        .chain(rsi::ROWS)
        .filter(|row| row.implemented)
    {
        write!(out, "/* {}(", row.name)?;
        names(out, row.arguments)?;
        out.write_str(") -> (")?;
        names(out, row.results)?;
        writeln!(out, ") */\n#define {} {:#010x}ull", row.name, row.function)?;
    }
    writeln!(
        out,
        "\n/* Index for RMI_FEATURES: which orders RMI_TEARDOWN are accepted, bit n for order n. */\n\
         #define RMI_FEATURE_TEARDOWN {:#010x}ull\n",
        rmi::features::TEARDOWN
    )?;
    for (name, function, ..) in RHI_FUNCTIONS {
        writeln!(out, "#define {name} {function:#010x}ull")?;
    }
    for (set, values) in SETS {
        out.write_char('\n')?;
        for value in *values {
            write!(out, "#define {set}_")?;
            snake(out, value.name, true)?;
            writeln!(out, " {}", value.number)?;
        }
    }
    for (interface, name, fields) in STRUCTURES {
        out.write_char('\n')?;
        for field in fields.iter().filter(|field| !field.name.starts_with('_')) {
            out.write_str("#define ")?;
            snake(out, interface, true)?;
            out.write_char('_')?;
            snake(out, name, true)?;
            out.write_char('_')?;
            snake(out, field.name, true)?;
            writeln!(out, "_OFFSET {:#x}", field.offset)?;
        }
    }
    out.write_str("\n#endif\n")
}

#[cfg(test)]
mod tests {
    use super::{c_header, markdown};
    use std::collections::HashSet;

    #[test]
    fn the_document_names_calls_values_and_fields() {
        let mut text = String::new();
        markdown(&mut text).unwrap();
        assert!(
            text.contains("| `c4000187` | RMI_VDEV_CREATE | rd, pdev, vdev, params |  | yes |")
        );
        assert!(text.contains("| RMI_VDEV | 0 new; 1 unlocked; 2 locked; "));
        assert!(text.contains("| 0x540 | 0x8 | dev_mem_base |"));
        assert!(!text.contains("_reserved"));
    }

    #[test]
    fn no_macro_of_the_header_is_defined_twice() {
        let mut text = String::new();
        c_header(&mut text).unwrap();
        let defined: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#define "))
            .filter_map(|rest| rest.split(' ').next())
            .collect();
        let unique: HashSet<&&str> = defined.iter().collect();
        assert_eq!(unique.len(), defined.len());
        assert!(text.contains("#define RMI_STATUS_NOT_SUPPORTED 5\n"));
        assert!(text.contains("#define RSI_VDEV_INFO_REPORT_NONCE_OFFSET 0x28\n"));
        assert!(text.contains("#define RMI_RTT_DATA_MAP_INIT 0xc4000153ull\n"));
    }
}
