//! A proxy between an HTTP client and its server that does what networks and servers do to each other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Answered with this status and S3 error code; the server never hears of it.
    Answer(u16, &'static str),
    /// The server does it; its answer is lost.
    LoseAnswer,
    /// The connection is reset before the body was read; the server never hears of it.
    Reset,
    /// So many bytes of the answer's body come, then the connection ends.
    Truncate(usize),
    /// So many bytes of the answer's body come, then nothing.
    Stall(usize),
    /// Never answered; the server never hears of it.
    Hang,
    /// The server does it, and is never heard.
    Withhold,
    /// Answered as done (204); the server never hears of it.
    Swallow,
    /// One bit of the answer's body is another one.
    FlipBit,
}

/// What a rule sees of a request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// Of a key, and of the whole object rather than a part or an upload.
    pub fn is(&self, method: &str, key: &str) -> bool {
        self.method == method && self.path.split('?').next().is_some_and(|path| path.ends_with(key))
    }
}

type Rule = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// A proxy; it ends when dropped.
pub struct Proxy {
    /// `http://127.0.0.1:port`
    pub endpoint: String,
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    upstream: String,
    rule: Mutex<Option<Rule>>,
    seen: Mutex<Vec<Request>>,
    over: AtomicBool,
}

impl Proxy {
    /// In front of `upstream` (`http://host:port`).
    pub fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let upstream = upstream.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let shared =
            Arc::new(Shared { upstream, rule: Mutex::default(), seen: Mutex::default(), over: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that goes away is no failure here.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { endpoint: format!("http://{address}"), shared, address }
    }

    /// Asks `rule` about each request from now on.
    pub fn rule(&self, rule: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// Does `fault` to the first `times` requests of `method`.
    pub fn fail(&self, method: &'static str, times: usize, fault: Fault) {
        let mut left = times;
        self.rule(move |request| {
            let fails = request.method == method && left > 0;
            left -= usize::from(fails);
            fails.then_some(fault)
        });
    }

    /// The requests that came, in order.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some((head, request)) = read_head(&mut client, &mut buffer)? {
            let fault = self.rule.lock().unwrap().as_mut().and_then(|rule| rule(&request));
            self.seen.lock().unwrap().push(request.clone());
            if fault == Some(Fault::Reset) && length(&request.headers) > 0 {
                // Bytes that nobody has read make a reset of the end.
                return Ok(());
            }
            let body = read_body(&mut client, &mut buffer, length(&request.headers))?;
            match fault {
                Some(Fault::Answer(status, code)) => client.write_all(&refusal(status, code))?,
                Some(Fault::Swallow) => client.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?,
                Some(Fault::Reset) => return Ok(()),
                Some(Fault::Hang) => {
                    self.wait_for_the_end();
                    return Ok(());
                }
                fault => {
                    let answer = self.forward(&head, &body)?;
                    if !self.pass_on(&mut client, answer, fault)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the server on a connection of its own and gives its whole answer.
    fn forward(&self, head: &[u8], body: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(&self.upstream)?;
        let text = String::from_utf8_lossy(head);
        let kept: Vec<&str> = text
            .trim_end()
            .split("\r\n")
            .filter(|line| !["connection:", "expect:"].iter().any(|name| line.to_ascii_lowercase().starts_with(name)))
            .collect();
        server.write_all(format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).as_bytes())?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// Whether the connection goes on.
    fn pass_on(&self, client: &mut TcpStream, mut answer: Vec<u8>, fault: Option<Fault>) -> io::Result<bool> {
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        match fault {
            Some(Fault::LoseAnswer) => return Ok(false),
            Some(Fault::Withhold) => self.wait_for_the_end(),
            Some(Fault::Truncate(bytes)) => client.write_all(&answer[..answer.len().min(head + bytes)])?,
            Some(Fault::Stall(bytes)) => {
                client.write_all(&answer[..answer.len().min(head + bytes)])?;
                self.wait_for_the_end();
            }
            Some(Fault::FlipBit) => {
                if let Some(byte) = answer.get_mut(head) {
                    *byte ^= 1;
                }
                client.write_all(&answer)?;
            }
            _ => client.write_all(&answer)?,
        }
        // The server ended its connection, and said so in the answer.
        Ok(false)
    }

    fn wait_for_the_end(&self) {
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn read_head(client: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<(Vec<u8>, Request)>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if more(client, buffer)? == 0 {
            return Ok(None);
        }
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    if headers.iter().any(|(name, value)| name == "expect" && value.eq_ignore_ascii_case("100-continue")) {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    Ok(Some((head, Request { method, path, headers })))
}

fn length(headers: &[(String, String)]) -> usize {
    headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap())
}

fn read_body(client: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while buffer.len() < length {
        if more(client, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buffer.drain(..length).collect())
}

fn more(client: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; 65536];
    let read = client.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..read]);
    Ok(read)
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message></Error>");
    let length = body.len();
    format!("HTTP/1.1 {status} Injected\r\ncontent-type: application/xml\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}
