//! The other end: a command beside a running sidecar.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::{Answer, Ask, Reply, Request, SOCKET, VERSION};

/// The longest conversation: a day of progress is some 40 MB.
const ANSWER_BYTES: u64 = 256 << 20;

/// What connecting and sending may take. What the sidecar does may take longer.
const LIMIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens there.
    Nobody,
    /// The conversation broke, or was not understood.
    Broken(String),
}

/// A conversation.
pub struct Client {
    lines: Lines<BufReader<Take<OwnedReadHalf>>>,
    _write: OwnedWriteHalf,
}

impl Client {
    /// Asks the sidecar that has `directory`.
    pub async fn ask(directory: &Path, ask: Ask) -> Result<Self, Failure> {
        let path = directory.join(SOCKET);
        let talk = async {
            let (read, mut write) = UnixStream::connect(&path).await?.into_split();
            let mut line = serde_json::to_vec(&Request { version: VERSION, ask })?;
            line.push(b'\n');
            write.write_all(&line).await?;
            Ok::<_, io::Error>(Self { lines: BufReader::new(read.take(ANSWER_BYTES)).lines(), _write: write })
        };
        match tokio::time::timeout(LIMIT, talk).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(Failure::Nobody)
            }
            Ok(Err(e)) => Err(Failure::Broken(format!("`{}`: {e}", path.display()))),
            Err(_) => Err(Failure::Broken(format!("`{}` takes no request", path.display()))),
        }
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Result<Answer, Failure> {
        let line = self.lines.next_line().await.map_err(|e| Failure::Broken(e.to_string()))?;
        let line = line.ok_or_else(|| Failure::Broken("the sidecar ended the conversation".to_owned()))?;
        let reply: Reply = serde_json::from_str(&line)
            .map_err(|e| Failure::Broken(format!("an answer that is not understood: {e}")))?;
        Ok(reply.answer)
    }
}
