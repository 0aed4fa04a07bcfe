//! A bucket that was fetched with other people's tools, which lose notes, and the loop of the guide that gets them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use atlas_sidecar::backup::{Kind, Manifest, by_hand};
use atlas_sidecar::object::{Destination as Place, ObjectKey, open_bare};

use super::LIFE;
use super::made::tailed::tailed;
use super::made::{Destination, images};
use super::script::{DASH, restore};
use crate::support::python::environment;
use crate::support::s3::S3Server;

/// Stores what is in a folder, live segments with their notes.
async fn stored(made: &Destination, server: &S3Server) {
    let store = open_bare(&server.settings("atlas")).unwrap();
    let live: Vec<&Manifest> =
        made.marks.iter().map(|mark| &mark.manifest).filter(|manifest| manifest.kind == Kind::Live).collect();
    let mut folders = vec![made.folder.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            let name = entry.path().strip_prefix(&made.folder).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Some(key) = ObjectKey::parse(&name) {
                let bytes = std::fs::read(entry.path()).unwrap().into();
                match live.iter().find(|manifest| manifest.object.as_ref().unwrap().key == name) {
                    Some(manifest) => store.create_noted(&key, bytes, &manifest.to_note()).await.unwrap(),
                    None => store.put(&key, bytes).await.unwrap(),
                }
            }
        }
    }
}

/// The commands between the first fence behind `words` and the next.
fn commands_behind(words: &str) -> &'static str {
    let behind = by_hand::GUIDE.split_once(words).unwrap().1;
    behind.split_once("```console\n").unwrap().1.split_once("```").unwrap().0
}

fn run(folder: &Path, server: &S3Server, commands: &str) {
    let Place::S3 { bucket, prefix } = server.settings("atlas").destination else { unreachable!() };
    let commands = commands.replace("BUCKET", &bucket).replace("PREFIX", &prefix);
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let out = Command::new("sh")
        .args(["-eu", "-c", &commands])
        .current_dir(folder)
        .envs([("PATH", path.as_str()), ("TEST_ENDPOINT", &server.endpoint)])
        .envs([("AWS_ACCESS_KEY_ID", &server.access_key), ("AWS_SECRET_ACCESS_KEY", &server.secret)])
        .output()
        .unwrap();
    assert!(out.status.success(), "{commands}: {}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_are_fetched_as_the_guide_says() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut made = Destination::new(there.path().join("backups"));
    tailed(&mut made, images(there.path(), 1024, 0, LIFE));
    let server = S3Server::start();
    stored(&made, &server).await;
    let (bin, python) = (here.path().join("bin"), environment("object", "object").join("python"));
    std::fs::create_dir(&bin).unwrap();
    let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/object/aws.py");
    std::fs::write(bin.join("aws"), format!("#!/bin/sh\nexec '{}' '{stand_in}' \"$@\"\n", python.display())).unwrap();
    std::fs::set_permissions(bin.join("aws"), std::fs::Permissions::from_mode(0o755)).unwrap();

    run(here.path(), &server, commands_behind("## 1. Get the backups").lines().next().unwrap());
    let fetched = here.path().join("backups");
    let notes = |folder: &Path| -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(folder.join("t000001")).unwrap().map(|entry| entry.unwrap());
        let notes = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".note"));
        let mut notes: Vec<_> = notes
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        notes.sort();
        notes
    };
    assert_eq!(notes(&fetched), []);
    made.folder = fetched.clone();
    let target = here.path().join("restored.db");
    let said = restore(&DASH, &made, &target, &[]).unwrap();
    assert!(said.contains("have no note"), "{said}");
    std::fs::remove_file(&target).unwrap();

    run(here.path(), &server, commands_behind("Fetch them from a bucket"));
    assert_eq!(notes(&fetched), notes(&there.path().join("backups")));
    let said = restore(&DASH, &made, &target, &[]).unwrap();
    assert!(!said.contains("have no note"), "{said}");
    assert!(std::fs::read(&target).unwrap() == made.marks.last().unwrap().image);
}
