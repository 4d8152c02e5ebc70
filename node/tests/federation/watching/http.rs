//! One HTTP request at a time, written by hand so that a test can also write wrong ones.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::exposition::{Metrics, parse};

const PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions of one poll.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends bytes and reads until the node closes: the status and the body, or `None` if it closed without a word.
pub(crate) fn exchange(addr: &str, request: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // The node may have closed it already.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

pub(crate) fn get(addr: &str, path: &str) -> Option<(u16, String)> {
    exchange(addr, format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes())
}

/// The metrics of a node, every line of them checked.
pub(crate) fn metrics(addr: &str) -> Metrics {
    let (status, text) = get(addr, "/metrics").expect("an answer");
    assert_eq!(status, 200, "{text}");
    parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"))
}

/// The status of `/healthz` and the reasons that it gives.
pub(crate) fn health(addr: &str) -> Option<(u16, Vec<String>)> {
    let (status, body) = get(addr, "/healthz")?;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["healthy"], status == 200, "{body}");
    let reasons = body["reasons"].as_array().expect("reasons").iter();
    Some((status, reasons.map(|reason| reason["reason"].as_str().expect("a code").to_owned()).collect()))
}

/// Asks until `enough` says so, and returns the last answer.
pub(crate) fn until<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let answer = ask();
        if enough(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} does not come: {answer:?}");
        // Between two questions the machine is the nodes'.
        std::thread::park_timeout(PAUSE);
    }
}
