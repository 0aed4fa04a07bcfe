//! Encoding and decoding a database file beside `pigz -1` with as many threads, file to file, in turns, each in a process of its own so that its memory is its own.
//!
//! `cargo bench --bench codec [-- MEGABYTES]`; 512 without. Needs `pigz` and `sqlite3` (Debian packages of these names). The file is like an Atlas database: metrics with
//! random ids and numbers, cached searches as JSON, their indexes. The bars are in benches/README.md.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say where")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atlas_sidecar::backup::codec::{Encoded, Form, Identity, Label, decode, encode};
use atlas_sidecar::backup::manifest::{Codec, Object};
use atlas_sidecar::clock::Timestamp;
use bytes::Bytes;
use tokio::sync::mpsc;

const ROUNDS: usize = 3;
const MB: f64 = 1e6;
/// As `age-keygen` printed it.
const SECRET: &str = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0";
/// Ours, with the codec and whether it is encrypted.
const FORMS: [(&str, Codec, bool); 4] = [
    ("gz", Codec::Gzip, false),
    ("zst", Codec::Zstd, false),
    ("gz.age", Codec::Gzip, true),
    ("zst.age", Codec::Zstd, true),
];

/// What fills the file. About 3,000 rows of the first kind, with a quarter as many of the second, make a megabyte.
const FILL: &str = include_str!("atlas.sql");

fn main() {
    // `cargo bench` passes `--bench`; a child gets what to do.
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["encode", form, from, to] => child(|| encode_file(form, from.as_ref(), to.as_ref())),
        ["decode", form, from, to] => child(|| decode_file(form, from.as_ref(), to.as_ref())),
        [] => compare(512),
        [megabytes] => compare(megabytes.parse().unwrap()),
        _ => panic!("one argument: megabytes"),
    }
}

fn compare(megabytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (db, back) = (at("atlas.db"), at("back"));
    fill(&db, megabytes * 3_000);
    let bytes = std::fs::metadata(&db).unwrap().len();
    let threads = threads().to_string();
    println!("{:.0} MB, {threads} threads, medians of {ROUNDS}", bytes as f64 / MB);
    let peers = [
        ("cat | pigz -1", format!("cat {db} | pigz -1 -p {threads} > {}", at("pigz.gz")), "pigz.gz"),
        ("pigz -d", format!("pigz -d -p {threads} < {} > {back}", at("pigz.gz")), "back"),
    ];
    let mut taken: Vec<(String, String, Vec<Taken>)> = Vec::new();
    for round in 0..ROUNDS {
        let mut note = |name: String, result: String, one: Taken| match round {
            0 => taken.push((name, result, vec![one])),
            _ => taken.iter_mut().find(|(known, ..)| *known == name).unwrap().2.push(one),
        };
        for (name, command, result) in &peers {
            note((*name).to_owned(), at(result), timed(Command::new("sh").args(["-c", command])));
        }
        for (form, ..) in FORMS {
            let stored = at(form);
            note(format!("encode {form}"), stored.clone(), ours(&["encode", form, &db, &stored]));
            note(format!("decode {form}"), back.clone(), ours(&["decode", form, &stored, &back]));
            assert!(Command::new("cmp").args([&db, &back]).status().unwrap().success());
        }
    }
    let rate = |taken: &[Taken]| bytes as f64 / MB / median(taken.iter().map(|t| t.took).collect()).as_secs_f64();
    let (pigz, unpigz) = (rate(&taken[0].2), rate(&taken[1].2));
    println!("{:<16} {:>6} {:>10} {:>10} {:>6} {:>9}", "", "MB/s", "of pigz", "CPU s/GB", "ratio", "peak MiB");
    for (name, result, taken) in &taken {
        let peer = if name.contains(" -d") || name.starts_with("decode") { unpigz } else { pigz };
        let ratio = bytes as f64 / std::fs::metadata(result).unwrap().len() as f64;
        let peak = taken.iter().filter_map(|t| t.peak_kib).max().map_or("-".to_owned(), |kib| (kib / 1024).to_string());
        let processor = median(taken.iter().map(|t| t.processor).collect()).as_secs_f64() / (bytes as f64 / 1e9);
        let ours = rate(taken);
        println!("{name:<16} {ours:>6.0} {:>10.2} {processor:>10.2} {ratio:>6.2} {peak:>9}", ours / peer);
    }
}

fn fill(db: &str, rows: u64) {
    let mut shell = Command::new("sqlite3").arg(db).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(FILL.replace(":rows", &rows.to_string()).as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

struct Taken {
    took: Duration,
    /// Of all its threads and processes: what is left to compare where the machine has other things to do.
    processor: Duration,
    peak_kib: Option<u64>,
}

fn timed(command: &mut Command) -> Taken {
    let (start, before) = (Instant::now(), children_took());
    assert!(command.status().unwrap().success());
    Taken { took: start.elapsed(), processor: children_took() - before, peak_kib: None }
}

/// Processor time of the children that have ended: `cutime` and `cstime` of proc_pid_stat(5), in hundredths of a second.
fn children_took() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = behind_name.split(' ').skip(13).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn ours(args: &[&str]) -> Taken {
    let before = children_took();
    let out = Command::new(std::env::current_exe().unwrap()).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let line = String::from_utf8(out.stdout).unwrap();
    let (nanos, kib) = line.trim().split_once(' ').unwrap();
    let took = Duration::from_nanos(nanos.parse().unwrap());
    Taken { took, processor: children_took() - before, peak_kib: Some(kib.parse().unwrap()) }
}

/// Says how long `work` took, and the most memory this process had.
fn child(work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let took = start.elapsed().as_nanos();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{took} {}", peak.trim().trim_end_matches(" kB"));
}

fn encode_file(form: &str, from: &Path, to: &Path) {
    let form = form_of(form);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (source, plain) = mpsc::channel(2);
    let (stored, mut sink) = mpsc::channel::<Bytes>(2);
    let file = File::open(from).unwrap();
    let reading = std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(1 << 20);
            if (&file).take(1 << 20).read_to_end(&mut piece).unwrap() == 0 {
                break;
            }
            source.blocking_send(piece.into()).unwrap();
        }
    });
    let mut out = File::create(to).unwrap();
    let writing = std::thread::spawn(move || {
        while let Some(piece) = sink.blocking_recv() {
            out.write_all(&piece).unwrap();
        }
    });
    let label = Label { name: "atlas.db".to_owned(), at: Timestamp::from_millis(1_795_305_600_000) };
    let encoded = runtime.block_on(encode(&form, label, threads(), plain, stored)).unwrap();
    reading.join().unwrap();
    writing.join().unwrap();
    let Encoded { plain, stored } = encoded;
    let encrypted = !form.recipients.is_empty();
    let object = Object { key: "k".to_owned(), stored, plain, codec: form.codec, encrypted };
    std::fs::write(to.with_extension("json"), serde_json::to_vec(&object).unwrap()).unwrap();
}

fn decode_file(_form: &str, from: &Path, to: &Path) {
    let object: Object = serde_json::from_slice(&std::fs::read(from.with_extension("json")).unwrap()).unwrap();
    let stored = Box::new(File::open(from).unwrap());
    let mut decoded = decode(&object, Some(&Identity::parse(SECRET).unwrap()), stored).unwrap();
    let mut out = File::create(to).unwrap();
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = decoded.read(&mut piece).unwrap();
        if length == 0 {
            break;
        }
        out.write_all(&piece[..length]).unwrap();
    }
    decoded.finish().unwrap();
}

fn form_of(name: &str) -> Form {
    let (_, codec, encrypted) = FORMS.into_iter().find(|(form, ..)| *form == name).unwrap();
    let recipients = Identity::parse(SECRET).unwrap().recipients().collect();
    Form { codec, recipients: if encrypted { recipients } else { Vec::new() } }
}

fn threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
