//! The tests' S3 server in a process of its own. It is asked over its standard input: `live` is answered with the number of live segments and when the last one was stored.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::support::run;
use super::support::s3::S3Server;

/// The child: tells how to reach it, and answers until nobody asks any more.
pub fn serve() {
    let server = S3Server::start();
    let mut out = std::io::stdout();
    writeln!(out, "{} {} {} {}", server.endpoint, server.bucket, server.access_key, server.secret).unwrap();
    for question in std::io::stdin().lines() {
        assert_eq!(question.unwrap(), "live");
        let keys: Vec<String> = server.keys().into_iter().filter(|key| is_live(key)).collect();
        let at = keys.last().and_then(|last| server.stored_at(last));
        let millis = at.map_or(0.0, |at| at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3);
        writeln!(out, "{} {millis}", keys.len()).unwrap();
    }
}

/// `atlas/t000001/0000000012.wal.gz`
fn is_live(key: &str) -> bool {
    key.rsplit('/')
        .next()
        .and_then(|name| name.split_once('.'))
        .is_some_and(|(number, rest)| number.len() == 10 && rest.starts_with("wal."))
}

/// The parent's end of it.
pub struct Bucket {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    told: Vec<String>,
}

impl Bucket {
    pub fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.arg("bucket").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (ask, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        Self { child, ask, answers, told: line.split_whitespace().map(str::to_owned).collect() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self) -> String {
        format!("s3://{}/atlas", self.told[1])
    }

    /// `[backup.s3]`, with the credentials in files of `folder`.
    pub fn section(&self, folder: &Path) -> String {
        for (file, text) in [("s3-id", &self.told[2]), ("s3-secret", &self.told[3])] {
            std::fs::write(folder.join(file), text).unwrap();
            run("chmod", &["600", folder.join(file).to_str().unwrap()]);
        }
        let endpoint = &self.told[0];
        format!(
            "[backup.s3]\nendpoint = \"{endpoint}\"\npath_style = true\naccess_key_id_file = \"s3-id\"\nsecret_access_key_file = \"s3-secret\"\n"
        )
    }

    fn asked(&mut self) -> (u64, f64) {
        writeln!(self.ask, "live").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let (count, at) = line.trim().split_once(' ').unwrap();
        (count.parse().unwrap(), at.parse().unwrap())
    }

    /// How many live segments there are.
    pub fn live(&mut self) -> u64 {
        self.asked().0
    }

    /// When the last one was stored, in milliseconds since 1970, once there are more than `before`.
    pub fn stored_after(&mut self, before: u64) -> Option<f64> {
        let (count, at) = self.asked();
        (count > before).then_some(at)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
