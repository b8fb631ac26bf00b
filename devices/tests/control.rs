// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket, and the process that has it.

mod requester;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use requester::{Bench, STREAM};
use serde_json::{Value, json};
use tsm_devices::{ControlListener, serve_control};

struct Controller(BufReader<TcpStream>);

impl Controller {
    fn ask(&mut self, line: &str) -> Value {
        writeln!(self.0.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

#[test]
fn the_state_is_told_and_commands_are_obeyed() {
    let mut bench = Bench::negotiated();
    let mut session = bench.establish();
    bench.secure(&mut session, STREAM);
    bench.lock(&mut session);
    let dsm = Arc::new(Mutex::new(bench.dsm));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = dsm.clone();
    let server = thread::spawn(move || serve_control(&ControlListener::Tcp(listener), &shared));
    let stream = TcpStream::connect(address).unwrap();
    let mut controller = Controller(BufReader::new(stream));

    let state = controller.ask(r#"{"command":"state"}"#);
    assert_eq!(state["sessions"][0]["established"], json!(true));
    assert_eq!(state["streams"][0]["in-use"], json!(6));
    assert_eq!(
        state["interfaces"],
        json!([{ "rid": 0x100, "state": "CONFIG_LOCKED" }])
    );
    let ok = json!({ "ok": true });
    assert_eq!(controller.ask(r#"{"command":"flr"}"#), ok);
    let state = controller.ask(r#"{"command":"state"}"#);
    assert_eq!(state["interfaces"][0]["state"], json!("ERROR"));

    let load = json!({ "command": "load", "plan": "[[fault]]\nat='VERSION'\nwhat='drop'" });
    assert_eq!(controller.ask(&load.to_string()), ok);
    let state = controller.ask(r#"{"command":"state"}"#);
    assert_eq!(
        state["faults"],
        json!([{ "what": "drop", "seen": 0, "fired": 0 }])
    );
    let load = json!({ "command": "load", "plan": "[[fault]]\nat='VERSION'" });
    let wrong = controller.ask(&load.to_string());
    assert_eq!(wrong, json!({ "error": "fault 1: `what`: missing" }));
    for unknown in [
        "{}",
        "state",
        r#"{"command":"explode"}"#,
        r#"{"command":"reset","now":1}"#,
    ] {
        assert!(controller.ask(unknown)["error"].is_string(), "{unknown}");
    }
    assert_eq!(controller.ask(r#"{"command":"clear"}"#), ok);
    assert_eq!(controller.ask(r#"{"command":"remove"}"#), ok);
    let state = controller.ask(r#"{"command":"state"}"#);
    assert_eq!(
        (&state["silent"], &state["sessions"], &state["faults"]),
        (&json!(true), &json!([]), &json!([]))
    );
    assert_eq!(controller.ask(r#"{"command":"reset"}"#), ok);
    assert!(!dsm.lock().unwrap().is_silent());

    // One that leaves does not keep the next one out.
    drop(controller);
    let stream = TcpStream::connect(address).unwrap();
    let mut controller = Controller(BufReader::new(stream));
    assert_eq!(controller.ask(r#"{"command":"quit"}"#), ok);
    server.join().unwrap().unwrap();
}

/// A device process; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("portcullis-{name}-{}", std::process::id()))
}

fn wait_for(path: &PathBuf) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            let _ = std::fs::remove_file(path);
            return text.trim().to_owned();
        }
        assert!(Instant::now() < deadline, "the process does not listen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Exchanges GET_VERSION over a socket and returns whether it was answered.
fn alive(address: &str) -> bool {
    use std::io::Read;
    let mut stream = TcpStream::connect(address).unwrap();
    let mut frame = requester::hex("00000001 00000002 0000000c");
    frame.extend(requester::hex("01000100 03000000 10840000"));
    stream.write_all(&frame).unwrap();
    let mut header = [0; 12];
    stream.read_exact(&mut header).unwrap();
    header[11] != 0
}

#[test]
fn one_process_serves_several_devices_and_its_successor_begins_anew() {
    let (first, second, socket) = (place("first"), place("second"), place("control"));
    let start = || {
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis-dsm"))
            .args(["--listen", "127.0.0.1:0", "--bar", "0x10000000:0x4000"])
            .args(["--function", "0x101:0x10010000:0x4000", "--listen-out"])
            .arg(&first)
            .arg("--control")
            .arg(&socket)
            .arg("--device")
            .arg(format!(
                "127.0.0.1:0,listen-out={},bar=0x20000000:0x4000,heartbeat=0",
                second.display()
            ))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process(child)
    };
    for _ in 0..2 {
        let mut process = start();
        let addresses = [wait_for(&first), wait_for(&second)];
        assert_ne!(addresses[0], addresses[1]);
        assert!(addresses.iter().all(|address| alive(address)));
        let mut control = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        writeln!(control, r#"{{"command":"state"}}"#).unwrap();
        let mut lines = BufReader::new(control.try_clone().unwrap()).lines();
        let state: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(state["interfaces"].as_array().unwrap().len(), 2);
        writeln!(control, r#"{{"command":"quit"}}"#).unwrap();
        assert!(process.0.wait().unwrap().success());
    }
    let _ = std::fs::remove_file(&socket);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for device in ["nowhere", "127.0.0.1:0,color=red", "127.0.0.1:0,bar=1"] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis-dsm"))
            .args(["--listen", "127.0.0.1:0", "--device", device])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{device}");
    }
}
