//! The application: the least that commits, one prepared statement over SQLite's C interface, in a process of its own. It is told over its standard input what to do.
#![allow(unsafe_code, reason = "SQLite's C interface itself")]

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use libsqlite3_sys as ffi;

use super::{now, share};

/// A queue with an index.
pub const SCHEMA: &str = "PRAGMA journal_mode = WAL; CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT, body TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP); CREATE INDEX jobs_name ON jobs(name);";

/// One commit.
pub const TOUCH: &str = "INSERT INTO jobs(name, body) VALUES (hex(randomblob(8)), hex(randomblob(100)))";

/// The child: obeys a line, answers with a line.
pub fn obey(database: &Path) {
    let loop_ = Loop::open(database);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["closed", seconds] => loop_.closed(Duration::from_secs(seconds.parse().unwrap())),
            ["open", seconds, rate] => {
                loop_.open_loop(Duration::from_secs(seconds.parse().unwrap()), rate.parse().unwrap())
            }
            ["commit"] => {
                loop_.commit();
                now()
            }
            _ => panic!("{line}"),
        };
        let mut out = std::io::stdout();
        writeln!(out, "{answer}").unwrap();
    }
}

/// A connection and its statement; used by this thread only.
struct Loop {
    statement: *mut ffi::sqlite3_stmt,
}

impl Loop {
    fn open(database: &Path) -> Self {
        let path = CString::new(database.to_str().unwrap()).unwrap();
        let (mut db, mut statement) = (ptr::null_mut(), ptr::null_mut());
        let settings = CString::new("PRAGMA busy_timeout = 10000; PRAGMA synchronous = NORMAL").unwrap();
        let insert = CString::new(TOUCH).unwrap();
        // SAFETY: the texts end with a zero byte, and what SQLite gives is used while it is open: to the end of the process.
        unsafe {
            assert_eq!(ffi::sqlite3_open(path.as_ptr(), &mut db), ffi::SQLITE_OK);
            let done = ffi::sqlite3_exec(db, settings.as_ptr(), None, ptr::null_mut(), ptr::null_mut());
            assert_eq!(done, ffi::SQLITE_OK);
            let done = ffi::sqlite3_prepare_v2(db, insert.as_ptr(), -1, &mut statement, ptr::null_mut());
            assert_eq!(done, ffi::SQLITE_OK);
        }
        Self { statement }
    }

    /// A statement outside of a transaction is one.
    fn commit(&self) {
        // SAFETY: the statement is open.
        unsafe {
            assert_eq!(ffi::sqlite3_step(self.statement), ffi::SQLITE_DONE);
            ffi::sqlite3_reset(self.statement);
        }
    }

    /// One commit after the other: how many a second.
    fn closed(&self, span: Duration) -> f64 {
        let (begin, mut commits) = (Instant::now(), 0_u64);
        while begin.elapsed() < span {
            self.commit();
            commits += 1;
        }
        commits as f64 / begin.elapsed().as_secs_f64()
    }

    /// A commit each time one is due, however late the one before was: the 99th percentile of milliseconds from when it was due.
    fn open_loop(&self, span: Duration, rate: u64) -> f64 {
        let (begin, count) = (Instant::now(), rate * span.as_secs());
        let waits: Vec<f64> = (0..count)
            .map(|n| {
                let due = begin + Duration::from_secs_f64(n as f64 / rate as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                self.commit();
                (Instant::now() - due).as_secs_f64() * 1e3
            })
            .collect();
        share(&waits, 0.99)
    }
}

/// The parent's end of it.
pub struct Application {
    child: Child,
    tell: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Application {
    pub fn start(database: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("application").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (tell, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, tell, answers }
    }

    fn told(&mut self, what: &str) -> f64 {
        writeln!(self.tell, "{what}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Commits a second, one after the other.
    pub fn closed(&mut self, seconds: u64) -> f64 {
        self.told(&format!("closed {seconds}"))
    }

    /// The 99th percentile of milliseconds at `rate` commits a second.
    pub fn open(&mut self, seconds: u64, rate: u64) -> f64 {
        self.told(&format!("open {seconds} {rate}"))
    }

    /// One commit; when it was done, in milliseconds since 1970.
    pub fn commit(&mut self) -> f64 {
        self.told("commit")
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
