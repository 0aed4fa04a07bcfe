//! What the tests share: scratch folders, free ports, a running sidecar, small HTTP.
#![allow(dead_code, reason = "each test module uses its part")]

pub mod memory_store;
pub mod postgres;
mod programs;
pub mod proxy;
pub mod python;
pub mod s3;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub use programs::{free_address, run, wait_for};

/// The sidecar's binary.
pub const SIDECAR: &str = env!("CARGO_BIN_EXE_atlas-sidecar");

/// An answer: status, headers (names in lower case), body (chunks joined, content encoding left as it is).
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("body is UTF-8")
    }
}

/// One request over a connection of its own; `None` where nobody listens.
pub fn request(method: &str, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    parse_answer(&bytes)
}

fn parse_answer(bytes: &[u8]) -> Option<Answer> {
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..split]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let raw = &bytes[split + 4..];
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked");
    let body = if chunked { unchunk(raw)? } else { raw.to_vec() };
    Some(Answer { status, headers, body })
}

fn unchunk(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(raw.get(end + 2..end + 2 + size)?);
        raw = raw.get(end + 4 + size..)?;
    }
}

/// GET without extra headers.
pub fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    request("GET", address, path, &[])
}

/// `config` with an address. Where a test is not about backups, the first one would come at some moment in the middle of it: none is made.
pub fn whole(config: &str, address: &str) -> String {
    let backups = if config.contains("[backup]") { "" } else { "[backup]\ndestination = \"\"\n" };
    format!("{config}\n{backups}[server]\nlisten = \"{address}\"\n")
}

/// A running sidecar in a scratch folder; killed when dropped.
pub struct Sidecar {
    pub child: Child,
    pub address: SocketAddr,
    pub folder: PathBuf,
    pub log: PathBuf,
}

impl Sidecar {
    /// Starts `run` in `folder` with `config` (TOML without `[server]`) and waits until it is ready.
    pub fn start(folder: &Path, config: &str) -> Self {
        Self::start_at(free_address(), folder, config)
    }

    /// The same at a given address, as after a restart.
    pub fn start_at(address: SocketAddr, folder: &Path, config: &str) -> Self {
        let sidecar = Self::launch_at::<&str>(address, folder, config, &[]);
        sidecar.wait_ready();
        sidecar
    }

    /// Starts `run` and does not wait.
    pub fn launch<V: AsRef<OsStr>>(folder: &Path, config: &str, environment: &[(&str, V)]) -> Self {
        Self::launch_at(free_address(), folder, config, environment)
    }

    fn launch_at<V: AsRef<OsStr>>(address: SocketAddr, folder: &Path, config: &str, environment: &[(&str, V)]) -> Self {
        let file = folder.join("sidecar.toml");
        std::fs::write(&file, whole(config, &address.to_string())).unwrap();
        let log = folder.join("sidecar.log");
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(SIDECAR)
            .args(["--config", file.to_str().unwrap(), "run"])
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, address, folder: folder.to_owned(), log }
    }

    pub fn wait_ready(&self) {
        wait_for(&format!("readiness; log: {}", self.log_text()), Duration::from_secs(30), || {
            get(self.address, "/-/ready").filter(|a| a.status == 200)
        });
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The whole `/metrics` page in text 0.0.4.
    pub fn metrics(&self) -> String {
        let answer = get(self.address, "/metrics").expect("the server answers");
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// Sends `signal` (`TERM`, `HUP`, `STOP`, …).
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Asks it to end and gives its exit code.
    pub fn stop(mut self) -> i32 {
        self.signal("TERM");
        wait_for("the sidecar to end", Duration::from_secs(30), || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the sidecar's binary with `args` in `folder` and waits for it.
pub fn sidecar(folder: &Path, args: &[&str]) -> Output {
    Command::new(SIDECAR).args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

/// What `promtool check metrics` says of `page`, and its exit code: 3 where it read the page and has advice, 1 where it could not read it.
pub fn promtool(page: &str) -> (Option<i32>, String) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("`promtool` does not start ({e}): tests/run installs it"));
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let out = promtool.wait_with_output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}
