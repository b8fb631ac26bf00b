// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The socket: frames of others, and frames that nobody should send.

mod requester;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use requester::{FIRMWARE, function, hex};
use tsm_devices::{Config, Dsm, Event, serve, start_clock};

const NORMAL: u32 = 1;
const PCI_DOE: u32 = 2;

struct Server {
    address: SocketAddr,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        let mut config = Config::new(FIRMWARE, function()).unwrap();
        config.observer = Box::new(move |event: &Event| heard.lock().unwrap().push(*event));
        let dsm = Arc::new(Mutex::new(Dsm::new(config)));
        start_clock(&dsm);
        thread::spawn(move || serve(&listener, &dsm));
        Self { address, events }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Client(stream)
    }

    fn disconnections(&self) -> usize {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter(|event| **event == Event::Disconnected)
            .count()
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, words: [u32; 3], payload: &[u8]) {
        // In small writes, as QEMU does.
        for word in words {
            self.0.write_all(&word.to_be_bytes()).unwrap();
        }
        self.0.write_all(payload).unwrap();
    }

    fn receive(&mut self) -> (u32, u32, Vec<u8>) {
        let mut word = || {
            let mut bytes = [0; 4];
            self.0.read_exact(&mut bytes).unwrap();
            u32::from_be_bytes(bytes)
        };
        let (command, transport, length) = (word(), word(), word());
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).unwrap();
        (command, transport, payload)
    }

    fn exchange(&mut self, command: u32, transport: u32, payload: &[u8]) -> (u32, u32, Vec<u8>) {
        self.send([command, transport, payload.len() as u32], payload);
        self.receive()
    }

    /// GET_VERSION must be answered with VERSION.
    fn alive(&mut self) {
        let request = hex("01000100 03000000 10840000");
        let answer = hex("01000100 04000000 10040000 00010012");
        assert_eq!(
            self.exchange(NORMAL, PCI_DOE, &request),
            (NORMAL, PCI_DOE, answer)
        );
    }

    fn closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

#[test]
fn test_continue_and_shutdown_are_echoed_and_the_next_client_is_served() {
    let server = Server::start();
    let mut client = server.connect();
    let hello = client.exchange(0xdead, PCI_DOE, b"Client Hello!\0");
    assert_eq!(hello, (0xdead, PCI_DOE, b"Server Hello!\0".to_vec()));
    client.alive();
    for command in [0xfffd, 0xfffe] {
        assert_eq!(
            client.exchange(command, PCI_DOE, &[0; 8]),
            (command, PCI_DOE, vec![])
        );
        assert!(client.closed());
        client = server.connect();
        client.alive();
    }
}

#[test]
fn a_client_that_just_leaves_does_not_keep_the_next_one_out() {
    let server = Server::start();
    for cut in [0, 3, 12, 16] {
        let mut client = server.connect();
        client.alive();
        let frame = hex("00000001 00000002 0000000c 01000100 03000000 10840000");
        client.0.write_all(&frame[..cut]).unwrap();
        client.0.shutdown(Shutdown::Both).unwrap();
    }
    let mut last = server.connect();
    last.alive();
    // The last one is still there.
    assert_eq!(server.disconnections(), 4);
}

#[test]
fn frames_that_make_no_sense_get_an_answer_all_the_same() {
    let server = Server::start();
    let mut client = server.connect();
    let nothing = |command| (command, PCI_DOE, vec![]);
    assert_eq!(
        client.exchange(0x8001, PCI_DOE, &[1, 2, 3]),
        nothing(0xffff)
    );
    for object in [
        "",
        "0100",
        "01000100 03000000",
        "01000100 00000000 10840000",
        "01000900 03000000 10840000",
        "de100100 03000000 10840000",
        "01000000 03000000 03000000",
    ] {
        assert_eq!(
            client.exchange(NORMAL, PCI_DOE, &hex(object)),
            nothing(NORMAL),
            "{object}"
        );
    }
    let object = hex("01000100 03000000 10840000");
    assert_eq!(client.exchange(NORMAL, 1, &object), (NORMAL, 1, vec![]));
    let large = vec![0; (1 << 20) + 4];
    assert_eq!(client.exchange(NORMAL, PCI_DOE, &large), nothing(NORMAL));
    client.alive();
}

#[test]
fn answers_stay_below_what_the_mailbox_takes() {
    let server = Server::start();
    let mut client = server.connect();
    client.alive();
    let vca = [
        requester::GET_CAPABILITIES,
        requester::NEGOTIATE_ALGORITHMS,
        "12820000 0000ffff",
    ];
    for message in vca {
        let message = hex(message);
        let mut object = hex("01000100");
        object.extend((2 + message.len() as u32 / 4).to_le_bytes());
        object.extend(message);
        let (_, _, answer) = client.exchange(NORMAL, PCI_DOE, &object);
        assert!(answer.len() > 8 && answer.len() <= 0x1200);
    }
}

#[test]
fn an_exchange_is_not_delayed_by_small_writes() {
    let server = Server::start();
    let mut client = server.connect();
    let start = std::time::Instant::now();
    for _ in 0..25 {
        client.alive();
    }
    // A delayed acknowledgment costs 40 ms each.
    assert!(start.elapsed() < Duration::from_millis(25 * 30));
}
