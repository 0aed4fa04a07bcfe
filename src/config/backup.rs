//! `[backup]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::{Held, Section, Show};
use super::sections::DAY;
use super::values;
use crate::backup::codec::{Form, Recipient};
use crate::backup::manifest::Codec;
use crate::backup::retain::Policy;
use crate::backup::{Settings, follow};
use crate::engine::Follow;
use crate::object::Destination;
use crate::object::s3::{self, Checksum};
use crate::secret::Secret;

/// How long condemned objects stay: longer than any restore takes, and than it takes to notice a mistake.
const GRACE: Duration = DAY;

/// What `codec` may be, and what it means.
const CODECS: ([&str; 2], [Codec; 2]) = (["gzip", "zstd"], [Codec::Gzip, Codec::Zstd]);

/// What `checksum` may be, and what it means.
const CHECKSUMS: ([&str; 2], [Checksum; 2]) = (["required", "supported"], [Checksum::Required, Checksum::Supported]);

/// The word for `codec`.
pub(super) fn codec_word(codec: Codec) -> &'static str {
    word(&CODECS, codec)
}

/// The word for `checksum`.
pub(super) fn checksum_word(checksum: Checksum) -> &'static str {
    word(&CHECKSUMS, checksum)
}

fn word<T: PartialEq>((words, meanings): &([&'static str; 2], [T; 2]), meant: T) -> &'static str {
    words[usize::from(meanings[0] != meant)]
}

/// How often commits may be shipped. Below a tenth of a second the requests cost more than what they save; a minute is far enough from a schedule.
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// How long a log, and how large a spool may be: not so small that a single transaction of an application is too much.
const ROOM: RangeInclusive<u64> = (16 << 20)..=(1 << 40);

/// The section; `None` only where a problem was noted.
pub(super) fn read(mut section: Section<'_>) -> Option<Settings> {
    let destination = section.get_some("destination", Show::Plain, |value| Destination::parse(&values::words(value)?));
    let policy = Policy {
        // Less than a day is less than from one increment to the next.
        window: section.take("window", values::duration(DAY..=3650 * DAY)),
        weeks: section.take("keep_weekly", values::whole(0..=520)),
        months: section.take("keep_monthly", values::whole(0..=120)),
        grace: GRACE,
    };
    let codec = one_of(&mut section, "codec", &CODECS);
    let checksum = one_of(&mut section, "checksum", &CHECKSUMS);
    let needed = matches!(destination, Ok(Some(Destination::S3 { .. })));
    let s3 = bucket(section.section("s3"), needed);
    let mut encryption = section.section("encryption");
    let recipients = encryption.get("recipients", Show::Plain, |value| {
        values::list(value)?.iter().map(|text| Recipient::parse(text)).collect::<Result<Vec<_>, _>>()
    });
    let identity_file = encryption.get_some("identity_file", Show::Plain, values::path);
    let sqlite = tail(section.section("sqlite"));
    Some(Settings {
        destination: destination.ok()?,
        s3: s3::Settings { checksum: checksum?, ..s3? },
        form: Form { codec: codec?, recipients: recipients.ok()?? },
        policy,
        identity_file: identity_file.ok()?,
        sqlite: sqlite?,
    })
}

/// What the database has to know of it; nothing where its commits are not followed.
pub(super) fn followed(settings: &Settings) -> Option<Follow> {
    let follow::Settings { interval, convert_to_wal, log_max, .. } = settings.sqlite;
    interval.and(settings.destination.as_ref()).map(|_| Follow { log_max, convert_to_wal })
}

/// `[backup.sqlite]`
fn tail(mut section: Section<'_>) -> Option<follow::Settings> {
    let interval = section.get_some("interval", Show::Plain, values::duration(INTERVAL));
    let convert_to_wal = section.take("convert_to_wal", values::flag);
    let log_max = section.take("log_max", values::size(ROOM)) as u64;
    let spool_max = section.take("spool_max", values::size(ROOM)) as u64;
    Some(follow::Settings { interval: interval.ok()?, convert_to_wal, log_max, spool_max })
}

fn one_of<T: Copy>(section: &mut Section<'_>, name: &'static str, known: &'static ([&str; 2], [T; 2])) -> Option<T> {
    let word = section.get(name, Show::Plain, values::one_of(&known.0)).ok()??;
    Some(known.1[usize::from(known.0[0] != word)])
}

/// `[backup.s3]`; the credentials are missed only where they are `needed`.
fn bucket(mut section: Section<'_>, needed: bool) -> Option<s3::Settings> {
    let endpoint = section.get_some("endpoint", Show::Url, |value| {
        let text = values::words(value)?;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
        let plain = !host.trim_end_matches('/').is_empty() && !host.contains(['@', '?', '#', ' ']);
        if plain {
            Ok(text)
        } else {
            Err("must be `https://host` or `http://host:port`, without user or parameters".to_owned())
        }
    });
    let region = section.need("region", values::words);
    let path_style = section.take("path_style", values::flag);
    let ca_file = section.get_some("ca_file", Show::Plain, values::path);
    let id = section.secret("access_key_id", "access_key_id_file");
    let key = section.secret("secret_access_key", "secret_access_key_file");
    for (name, held) in [("access_key_id", &id), ("secret_access_key", &key)] {
        if needed && matches!(held, Ok(None)) {
            section.missing(name, "is needed for a destination in S3; better in a file");
        }
    }
    let text = |held: Option<Held>| held.map(|held| held.text).unwrap_or_default();
    Some(s3::Settings {
        endpoint: endpoint.ok()?,
        region,
        path_style,
        access_key_id: text(id.ok()?),
        secret_access_key: Secret::new(text(key.ok()?)),
        ca_file: ca_file.ok()?,
        checksum: Checksum::Required,
    })
}
