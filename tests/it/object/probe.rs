//! What a probe says of destinations that do not do what they say.

use atlas_sidecar::clock::Clock;
use atlas_sidecar::object::probe::{Line, Verdict, destination, honours_create, keeps_notes};
use atlas_sidecar::object::{Destination, ObjectError, Settings, open_bare};
use s3s::s3_error;

use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::S3Server;

async fn probed(settings: &Settings) -> Vec<Line> {
    destination(settings, &Clock::system()).await
}

/// The verdict on `name`, and its words.
fn line<'a>(lines: &'a [Line], name: &str) -> (Verdict, &'a str) {
    let line = lines.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no line `{name}`: {lines:#?}"));
    (line.verdict, &line.words)
}

/// The names of what is not good.
fn odd(lines: &[Line]) -> Vec<(&'static str, Verdict)> {
    lines.iter().filter(|line| line.verdict != Verdict::Good).map(|line| (line.name, line.verdict)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_bucket_is_good_in_every_line() {
    let server = S3Server::start();
    let lines = probed(&server.settings("p")).await;
    assert_eq!(odd(&lines), [], "{lines:#?}");
    let names: Vec<&str> = lines.iter().map(|line| line.name).collect();
    let all = [
        "write",
        "read",
        "read a part",
        "create twice",
        "large object",
        "list",
        "clocks",
        "notes",
        "delete",
        "checksum",
    ];
    assert_eq!(names, all);
    assert!(server.keys().is_empty() && server.open_uploads() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_that_is_ignored_is_noticed() {
    let server = S3Server::start();
    server.ignore_conditions();
    let store = open_bare(&server.settings("p")).unwrap();
    assert!(!honours_create(&*store).await.unwrap());
    let lines = probed(&server.settings("p")).await;
    assert_eq!(odd(&lines), [("create twice", Verdict::Look)], "{lines:#?}");
    assert!(server.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_that_are_dropped_are_noticed() {
    let server = S3Server::start();
    server.drop_metadata();
    let store = open_bare(&server.settings("p")).unwrap();
    assert!(!keeps_notes(&*store).await.unwrap());
    let lines = probed(&server.settings("p")).await;
    assert_eq!(odd(&lines), [("notes", Verdict::Look)], "{lines:#?}");
    assert!(line(&lines, "notes").1.contains("backup.sqlite.interval"), "{lines:#?}");
    assert!(server.keys().is_empty());
    // One that refuses what is that long.
    let proxy = Proxy::start(&server.endpoint);
    let mut settings = server.settings("p");
    settings.s3.endpoint = Some(proxy.endpoint.clone());
    proxy.rule(|request| request.is("PUT", "/noted").then_some(Fault::Answer(400, "MetadataTooLarge")));
    let lines = probed(&settings).await;
    assert_eq!(odd(&lines), [("notes", Verdict::Look)], "{lines:#?}");
    assert!(line(&lines, "notes").1.contains("MetadataTooLarge"), "{lines:#?}");
    assert!(keeps_notes(&*open_bare(&settings).unwrap()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_delete_can_back_up() {
    let server = S3Server::start();
    server.fail("DeleteObject", 99, || s3_error!(AccessDenied));
    let store = open_bare(&server.settings("p")).unwrap();
    assert!(honours_create(&*store).await.unwrap());
    let lines = probed(&server.settings("p")).await;
    assert_eq!(odd(&lines), [("delete", Verdict::Look)], "{lines:#?}");
    assert!(line(&lines, "delete").1.contains("not allowed"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_that_are_swallowed_are_noticed() {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    proxy.rule(|request| (request.method == "DELETE").then_some(Fault::Swallow));
    let mut settings = server.settings("p");
    settings.s3.endpoint = Some(proxy.endpoint.clone());
    let lines = probed(&settings).await;
    assert_eq!(odd(&lines), [("delete", Verdict::Look)], "{lines:#?}");
    assert!(line(&lines, "delete").1.contains("4 objects"), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_noticed() {
    let server = S3Server::start();
    let proxy = Proxy::start(&server.endpoint);
    proxy.rule(|request| request.is("GET", "/small").then_some(Fault::FlipBit));
    let mut settings = server.settings("p");
    settings.s3.endpoint = Some(proxy.endpoint.clone());
    let lines = probed(&settings).await;
    assert_eq!(line(&lines, "read").0, Verdict::Bad, "{lines:#?}");
    assert_eq!(line(&lines, "read a part").0, Verdict::Bad, "{lines:#?}");
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_destination_that_is_not_there_is_one_bad_line() {
    let server = S3Server::start();
    let mut settings = server.settings("p");
    settings.destination = Destination::S3 { bucket: "nowhere".to_owned(), prefix: String::new() };
    let lines = probed(&settings).await;
    assert_eq!(odd(&lines), [("write", Verdict::Bad)], "{lines:#?}");
    assert!(line(&lines, "write").1.contains("NoSuchBucket"), "{lines:#?}");
    settings.s3.access_key_id.clear();
    assert_eq!(odd(&probed(&settings).await), [("settings", Verdict::Bad)]);
    let store = open_bare(&server.settings("p")).unwrap();
    server.fail("PutObject", 99, || s3_error!(AccessDenied));
    assert!(matches!(honours_create(&*store).await, Err(ObjectError::Denied(_))));
}

/// A clock by hand stands an hour ahead of the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_differ_are_noticed() {
    let server = S3Server::start();
    let ahead = Clock::by_hand(Clock::system().now().after(std::time::Duration::from_secs(3600)));
    let lines = destination(&server.settings("p"), &ahead).await;
    assert_eq!(odd(&lines), [("clocks", Verdict::Look)], "{lines:#?}");
}
