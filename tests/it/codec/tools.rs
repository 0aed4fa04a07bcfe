//! No lock-in: the programs that anybody has read what we write, and we read what they write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::support::run;

/// What `command` (a line of shell, `$1` is `file`) writes.
fn shell(command: &str, file: &Path) -> Vec<u8> {
    let out = Command::new("sh").args(["-c", command, "sh"]).arg(file).output().unwrap();
    assert!(out.status.success(), "`{command}`: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn the_standard_tools_read_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("identity.txt");
    std::fs::write(&key, SECRET).unwrap();
    run("age", &["--version"]);
    let open = format!("age -d -i {} <\"$1\"", key.display());
    for length in [0, 10, MIB, 5 * MIB / 2] {
        let bytes = text(length, 9);
        for (codec, encrypted, command) in [
            (Codec::Gzip, false, "gunzip -t <\"$1\" && gunzip <\"$1\"".to_owned()),
            (Codec::Zstd, false, "zstd -q -t \"$1\" && zstd -q -d <\"$1\"".to_owned()),
            (Codec::Gzip, true, format!("{open} | gunzip")),
            (Codec::Zstd, true, format!("{open} | zstd -q -d")),
        ] {
            let form = form(codec, encrypted);
            let file = folder.path().join(format!("atlas.db.{}", form.extension()));
            std::fs::write(&file, stored(&form, 2, vec![bytes.clone().into()]).0).unwrap();
            assert!(shell(&command, &file) == bytes, "{length} bytes through `{command}`");
        }
    }
}

#[test]
fn gunzip_gives_the_name_and_the_time_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("0000000001.gz");
    std::fs::write(&file, stored(&form(Codec::Gzip, false), 2, vec![text(2 * MIB, 1).into()]).0).unwrap();
    run("gunzip", &["-N", file.to_str().unwrap()]);
    let about = std::fs::metadata(folder.path().join("atlas.db")).unwrap();
    assert_eq!((about.mtime(), about.len()), (1_795_399_200, 2 * MIB as u64));
}

#[test]
fn what_the_standard_tools_write_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let recipient = identity().recipients().next().unwrap();
    let file = folder.path().join("plain");
    let bytes = text(3 * MIB, 5);
    std::fs::write(&file, &bytes).unwrap();
    for (codec, encrypted, command) in [
        (Codec::Gzip, false, "gzip -c \"$1\"".to_owned()),
        // One frame, and no farther back than a block.
        (Codec::Zstd, false, "zstd -q --zstd=wlog=20 <\"$1\"".to_owned()),
        (Codec::Gzip, true, format!("gzip -c \"$1\" | age -r {recipient}")),
    ] {
        let form = form(codec, encrypted);
        let stored = shell(&command, &file);
        let object = object(&form, content(&bytes), content(&stored));
        assert!(plain(&object, &stored).unwrap() == bytes, "from `{command}`");
    }
}
