// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Learns the function's place and BARs from QEMU's machine protocol.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::function::{Bar, FunctionSource, FunctionView};

/// Time between two questions. QEMU answers none while it waits for us.
const PERIOD: Duration = Duration::from_millis(30);
/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);

const NVME_VENDOR: u64 = 0x1b36;
const NVME_DEVICE: u64 = 0x0010;
const NVME_CLASS: u64 = 0x0108;

#[derive(Default)]
struct Snapshot {
    view: Option<FunctionView>,
    reset: bool,
}

/// The last complete answer of the machine, kept up to date by a thread.
#[derive(Clone, Default)]
pub struct MachineMonitor(Arc<Mutex<Snapshot>>);

impl MachineMonitor {
    /// Starts watching the machine at `socket` for the NVMe function with `qdev_id`, or, without
    /// an id, for the one that is not on root bus 0, else the first. The socket need not exist yet.
    #[must_use]
    pub fn watch(socket: &Path, qdev_id: Option<&str>) -> Self {
        let monitor = Self::default();
        let shared = monitor.clone();
        let socket: PathBuf = socket.to_owned();
        let qdev_id = qdev_id.map(str::to_owned);
        thread::spawn(move || {
            loop {
                // A machine that is gone may come back; what it told is void until then.
                let _ = shared.converse(&socket, qdev_id.as_deref());
                shared.lock().view = None;
                thread::sleep(RETRY);
            }
        });
        monitor
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn converse(&self, socket: &Path, qdev_id: Option<&str>) -> io::Result<()> {
        let mut stream = UnixStream::connect(socket)?;
        let mut lines = BufReader::new(stream.try_clone()?);
        self.next_value(&mut lines)?;
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        self.next_return(&mut lines)?;
        let mut settled = Settled::default();
        loop {
            stream.write_all(b"{\"execute\":\"query-pci\"}\n")?;
            let buses = self.next_return(&mut lines)?;
            if let Some(view) = settled.take(find(&buses, qdev_id)) {
                self.lock().view = view;
            }
            thread::sleep(PERIOD);
        }
    }

    /// Reads values until one answers a command, and takes note of events on the way.
    fn next_return(&self, lines: &mut impl BufRead) -> io::Result<Value> {
        loop {
            let mut value = self.next_value(lines)?;
            if value.get("error").is_some() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            if let Some(answer) = value.get_mut("return") {
                return Ok(answer.take());
            }
            if value.get("event").and_then(Value::as_str) == Some("RESET") {
                self.lock().reset = true;
            }
        }
    }

    fn next_value(&self, lines: &mut impl BufRead) -> io::Result<Value> {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&line).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl FunctionSource for MachineMonitor {
    fn view(&mut self) -> Option<FunctionView> {
        self.lock().view.clone()
    }

    fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.lock().reset)
    }
}

/// Tells settings that stay from those of a moment: software sizes a BAR by writing ones to it.
#[derive(Default)]
struct Settled {
    last: Option<FunctionView>,
}

impl Settled {
    /// Takes an answer and returns it if the one before was the same.
    fn take(&mut self, view: Option<FunctionView>) -> Option<Option<FunctionView>> {
        let same = view == self.last;
        self.last = view.clone();
        same.then_some(view)
    }
}

/// Finds our function in the answer to `query-pci`.
fn find(buses: &Value, qdev_id: Option<&str>) -> Option<FunctionView> {
    let mut found = Vec::new();
    for bus in buses.as_array()? {
        // A root bus of its own sets a device apart as a bridge does.
        let apart = bus.get("bus").and_then(Value::as_u64) != Some(0);
        collect(bus.get("devices"), apart, &mut found);
    }
    let chosen = match qdev_id {
        Some(id) => found
            .iter()
            .find(|(_, device)| text(device, "qdev_id") == Some(id)),
        None => found.iter().find(|(apart, _)| *apart).or(found.first()),
    };
    chosen.map(|(_, device)| view(device))
}

/// Lists NVMe functions and whether each is apart from root bus 0. Bus numbers behind bridges say
/// nothing of that before the host has set them.
fn collect<'a>(devices: Option<&'a Value>, apart: bool, found: &mut Vec<(bool, &'a Value)>) {
    for device in devices.and_then(Value::as_array).into_iter().flatten() {
        let id = |name| {
            device
                .pointer(&format!("/id/{name}"))
                .and_then(Value::as_u64)
        };
        let class = device.pointer("/class_info/class").and_then(Value::as_u64);
        if (id("vendor"), id("device"), class)
            == (Some(NVME_VENDOR), Some(NVME_DEVICE), Some(NVME_CLASS))
        {
            found.push((apart, device));
        }
        collect(device.pointer("/pci_bridge/devices"), true, found);
    }
}

fn text<'a>(device: &'a Value, name: &str) -> Option<&'a str> {
    device.get(name).and_then(Value::as_str)
}

fn view(device: &Value) -> FunctionView {
    let number = |name| device.get(name).and_then(Value::as_u64).unwrap_or(0);
    let rid = (number("bus") << 8 | number("slot") << 3 | number("function")) as u16;
    let regions = device.get("regions").and_then(Value::as_array);
    let mut bars: Vec<Bar> = regions.into_iter().flatten().filter_map(bar).collect();
    bars.sort_by_key(|bar| bar.index);
    FunctionView {
        rid: Some(rid),
        bars,
    }
}

/// Reads a memory region. One that does not decode has an address of -1.
fn bar(region: &Value) -> Option<Bar> {
    let number = |name| region.get(name).and_then(Value::as_u64);
    let address = number("address").filter(|address| *address != u64::MAX)?;
    if text(region, "type") != Some("memory") {
        return None;
    }
    Some(Bar {
        index: number("bar")? as u8,
        address,
        size: number("size")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Settled, find};
    use crate::function::{Bar, FunctionView};

    fn nvme(bus: u8, id: &str, address: i64) -> Value {
        json!({
            "bus": bus, "slot": 1, "function": 2, "qdev_id": id,
            "class_info": { "class": 0x0108 },
            "id": { "vendor": 0x1b36, "device": 0x10 },
            "regions": [
                { "bar": 0, "type": "memory", "address": address, "size": 0x4000 },
            ],
        })
    }

    fn machine() -> Value {
        json!([{ "bus": 0, "devices": [
            nvme(0, "plain", 0x1000_0000),
            {
                "id": { "vendor": 0x1b36, "device": 0xc }, "class_info": { "class": 0x604 },
                "pci_bridge": { "devices": [nvme(1, "", 0x1020_0000)] },
            },
        ]}])
    }

    #[test]
    fn the_function_behind_the_bridge_is_ours() {
        let bars = vec![Bar {
            index: 0,
            address: 0x1020_0000,
            size: 0x4000,
        }];
        assert_eq!(
            find(&machine(), None),
            Some(FunctionView {
                rid: Some(0x010a),
                bars
            })
        );
    }

    #[test]
    fn the_function_on_another_root_bus_is_ours() {
        let machine = json!([
            { "bus": 0, "devices": [nvme(0, "", 0x1000_0000)] },
            { "bus": 1, "devices": [nvme(1, "", 0x1020_0000)] },
        ]);
        assert_eq!(find(&machine, None).unwrap().rid, Some(0x010a));
    }

    #[test]
    fn an_id_chooses_and_an_unknown_one_finds_nothing() {
        assert_eq!(find(&machine(), Some("plain")).unwrap().rid, Some(0x000a));
        assert_eq!(find(&machine(), Some("other")), None);
        assert_eq!(find(&json!([]), None), None);
    }

    #[test]
    fn a_bar_that_is_being_sized_has_not_moved() {
        let placed = FunctionView {
            rid: Some(0x010a),
            bars: vec![Bar {
                index: 0,
                address: 0x1020_0000,
                size: 0x4000,
            }],
        };
        let sized = FunctionView {
            rid: Some(0x010a),
            bars: Vec::new(),
        };
        let mut settled = Settled::default();
        assert_eq!(settled.take(Some(placed.clone())), None);
        assert_eq!(
            settled.take(Some(placed.clone())),
            Some(Some(placed.clone()))
        );
        assert_eq!(settled.take(Some(sized.clone())), None);
        assert_eq!(settled.take(Some(placed)), None);
        assert_eq!(settled.take(Some(sized.clone())), None);
        assert_eq!(settled.take(Some(sized.clone())), Some(Some(sized)));
    }

    #[test]
    fn a_bar_that_does_not_decode_is_not_there() {
        let machine = json!([{ "bus": 0, "devices": [nvme(0, "", -1)] }]);
        assert!(find(&machine, None).unwrap().bars.is_empty());
    }
}
