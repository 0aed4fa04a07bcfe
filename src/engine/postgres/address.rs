//! Where a server is: `postgres://user@host:port,host:port/database?sslmode=…`, read by ourselves.
//!
//! The form is libpq's (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>), with fewer ways to say a thing: the role and
//! the database are always named, and nothing is taken from `PG…` variables or `~/.pgpass`: what the configuration says is what happens. A parameter that
//! is not known is an error, because the one that was meant may have been the one that protects the password.
//!
//! Messages name the part that is wrong. They repeat nothing of the URL that could be a piece of a password: not what stands behind a stray `@`,
//! not a port that is none, not a parameter without a value.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgSslMode;

use crate::nearest::nearest;
use crate::secret::Secret;

/// What a URL must look like.
const FORM: &str = "must be `postgres://user@host:port/database`";

/// What a URL may say behind the `?`.
const PARAMETERS: [&str; 8] =
    ["host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "target_session_attrs"];

/// The values of `sslmode`, from no protection to all of it. libpq's `allow` is missing: it prefers a session that is not encrypted.
const MODES: [(&str, PgSslMode); 5] = [
    ("disable", PgSslMode::Disable),
    ("prefer", PgSslMode::Prefer),
    ("require", PgSslMode::Require),
    ("verify-ca", PgSslMode::VerifyCa),
    ("verify-full", PgSslMode::VerifyFull),
];

/// The most hosts of one URL: they are tried one after another, and the last one's turn must come.
const HOSTS: usize = 8;

/// How long a host may take to answer, where the URL does not say.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A URL, understood.
#[derive(Clone, Debug)]
pub struct Address {
    /// In the order in which they are tried; at least one.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The password, where the URL has it.
    pub password: Option<Secret>,
    /// The database's name.
    pub database: String,
    /// How sessions are protected.
    pub tls: Tls,
    /// What each host may take until a session is there.
    pub limit: Duration,
    /// The URL without its password.
    pub shown: String,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the folder of a socket, which begins with `/`.
    pub place: String,
    /// Its port; it is part of a socket's name, too.
    pub port: u16,
}

/// How sessions are protected.
#[derive(Clone, Debug)]
pub struct Tls {
    /// `sslmode`
    pub mode: PgSslMode,
    /// `sslrootcert`: authorities that are trusted beside the system's.
    pub authorities: Option<PathBuf>,
    /// `sslcert` and `sslkey`: the certificate by which the server may know us.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.contains(':') {
            true => write!(f, "[{}]:{}", self.place, self.port),
            false => write!(f, "{}:{}", self.place, self.port),
        }
    }
}

impl Host {
    /// Whether it is reached by a socket of this machine's file system.
    pub fn is_socket(&self) -> bool {
        self.place.starts_with('/')
    }

    /// Whether what is sent there stays on this machine.
    fn is_here(&self) -> bool {
        self.is_socket() || self.name() == "localhost"
    }

    /// Its name, equal for the same host as far as that is known without asking anybody.
    fn name(&self) -> String {
        let name = self.place.trim_end_matches('.').to_ascii_lowercase();
        match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_canonical().is_loopback() => "localhost".to_owned(),
            Ok(ip) => ip.to_canonical().to_string(),
            Err(_) if name.ends_with(".localhost") => "localhost".to_owned(),
            Err(_) => name,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or(FORM)?;
        if !matches!(scheme, "postgres" | "postgresql") {
            return Err(FORM.to_owned());
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains(['@', '#']) || authority.matches('@').count() > 1 {
            return Err("`/`, `?`, `#`, `@` and `%` in a name, a password or a path must be written `%2F`, `%3F`, `%23`, `%40` and `%25`".to_owned());
        }
        let (role, hosts) = authority.split_once('@').unwrap_or(("", authority));
        let (user, password) = role.split_once(':').unwrap_or((role, ""));
        // First of all: without an `@`, everything else may be a password.
        if user.is_empty() {
            return Err(format!("names no role; {FORM}"));
        }
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let database = path.strip_prefix('/').unwrap_or(path);
        if database.contains('/') {
            return Err("the database's name must not contain `/`; write `%2F`".to_owned());
        }
        let mut given = parameters(query)?;
        let address = Self {
            hosts: hosts_of(hosts, &mut given)?,
            user: decoded(user, "the user's name")?,
            password: Some(decoded(password, "the password")?).filter(|p| !p.is_empty()).map(Secret::new),
            database: decoded(database, "the database's name")?,
            tls: tls_of(&mut given)?,
            limit: limit_of(&mut given)?,
            shown: match password.is_empty() {
                true => url.to_owned(),
                // The parameters are all known by now, and none of them is a secret.
                false => format!("{scheme}://{user}:<secret>@{hosts}{tail}"),
            },
        };
        if !matches!(given.remove("target_session_attrs").as_deref(), None | Some("read-write" | "primary")) {
            return Err("`target_session_attrs` must be `read-write`: the sidecar writes".to_owned());
        }
        match address.database.is_empty() {
            true => Err(format!("names no database; {FORM}")),
            false => Ok(address),
        }
    }
}

impl Address {
    /// Whether both lead to one database: of that name, on a server that both name.
    pub fn is_same(&self, other: &Self) -> bool {
        let meet = |a: &Host| other.hosts.iter().any(|b| (a.name(), a.port) == (b.name(), b.port));
        self.database == other.database && self.hosts.iter().any(meet)
    }

    /// What somebody on the way to the server could do, in words; nothing where the way is protected or has no length.
    pub fn caution(&self) -> Option<String> {
        let host = self.hosts.iter().find(|host| !host.is_here())?;
        let mode = MODES.iter().find(|(_, mode)| mode_is(*mode, self.tls.mode))?.0;
        let danger = match self.tls.mode {
            PgSslMode::VerifyFull => return None,
            PgSslMode::VerifyCa => "another server with a certificate of any trusted authority can pass for it",
            PgSslMode::Require => "nobody checks who answers: another server can pass for it and read all that is sent",
            PgSslMode::Disable => "everybody on the way can read and change all that is sent",
            _ => "the session may not be encrypted, and another server can pass for it",
        };
        Some(format!(
            "`sslmode={mode}` to `{host}`: {danger}; write `sslmode=verify-full`, and `sslrootcert=FILE` if the authority is your own"
        ))
    }
}

/// `PgSslMode` has no `PartialEq`.
fn mode_is(a: PgSslMode, b: PgSslMode) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

fn parameters(query: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let mut given = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let known = || format!("known are {}", list(&PARAMETERS));
        let (name, value) =
            pair.split_once('=').ok_or_else(|| format!("has a parameter without a value; {}", known()))?;
        let Some(key) = PARAMETERS.into_iter().find(|key| *key == name) else {
            let is_word = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b));
            let name = if is_word { format!(" `{name}`") } else { String::new() };
            let meant = nearest(name.trim_matches([' ', '`']), PARAMETERS);
            let meant = meant.map_or_else(known, |near| format!("did you mean `{near}`?"));
            return Err(format!("unknown parameter{name}; {meant}"));
        };
        if given.insert(key, decoded(value, &format!("`{key}`"))?).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(given)
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// `host:port,host:port`, or the parameters `host` and `port` in its place.
fn hosts_of(text: &str, given: &mut BTreeMap<&'static str, String>) -> Result<Vec<Host>, String> {
    let (places, ports) = (given.remove("host"), given.remove("port"));
    let hosts: Vec<Host> = match (text, places) {
        ("", None) => return Err(format!("names no host; {FORM}")),
        ("", Some(places)) => {
            let ports = ports.unwrap_or_default();
            let ports: Vec<&str> = ports.split(',').collect();
            let places: Vec<&str> = places.split(',').collect();
            if ports.len() > 1 && ports.len() != places.len() {
                return Err("`port` must name one port, or as many as `host` names hosts".to_owned());
            }
            let port = |n: usize| ports.get(n).or(ports.first()).copied().unwrap_or_default();
            places.iter().enumerate().map(|(n, place)| host(place, port(n), n)).collect::<Result<_, _>>()?
        }
        (_, Some(_)) => return Err("`host` is given although a host stands in front of the database".to_owned()),
        (_, None) if ports.is_some() => return Err("`port` belongs behind the host: `host:port`".to_owned()),
        (text, None) => {
            text.split(',').enumerate().map(|(n, part)| host_and_port(part, n)).collect::<Result<_, _>>()?
        }
    };
    match hosts.len() {
        0..=HOSTS => Ok(hosts),
        _ => Err(format!("names more than {HOSTS} hosts")),
    }
}

fn host_and_port(text: &str, n: usize) -> Result<Host, String> {
    // `[::1]:5432`: the colon of the port is the one behind the bracket.
    let end = text.rfind(']').unwrap_or(0);
    if text[end..].matches(':').count() > 1 {
        return Err(format!("host {}: an IPv6 address must stand in brackets", n + 1));
    }
    let (place, port) = match text[end..].find(':') {
        Some(colon) => (&text[..end + colon], &text[end + colon + 1..]),
        None => (text, ""),
    };
    let place = decoded(place, "the host")?;
    match place.strip_prefix('[').map(|inside| inside.strip_suffix(']')) {
        Some(inside) => match inside.and_then(|inside| inside.parse::<Ipv6Addr>().ok()) {
            Some(ip) => host(&ip.to_string(), port, n),
            None => Err(format!("host {}: in brackets stands no IPv6 address", n + 1)),
        },
        None => host(&place, port, n),
    }
}

fn host(place: &str, port: &str, n: usize) -> Result<Host, String> {
    let n = n + 1;
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if place.is_empty() || !(place.starts_with('/') || is_name(place) || place.parse::<Ipv6Addr>().is_ok()) {
        return Err(format!("host {n} is no name, no address and no path of a socket's folder"));
    }
    let port = match port {
        "" => 5432,
        port => port.parse().ok().filter(|p| *p > 0).ok_or(format!("the port of host {n} is none from 1 to 65535"))?,
    };
    let place = if place.len() > 1 { place.trim_end_matches('/') } else { place };
    Ok(Host { place: place.to_owned(), port })
}

fn tls_of(given: &mut BTreeMap<&'static str, String>) -> Result<Tls, String> {
    let authorities = given.remove("sslrootcert");
    let identity = match (given.remove("sslcert"), given.remove("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => return Err("`sslcert` and `sslkey` belong together".to_owned()),
    };
    let mode = match given.remove("sslmode").as_deref() {
        // Who names the authorities wants them looked at.
        None if authorities.is_some() => PgSslMode::VerifyFull,
        None => PgSslMode::Prefer,
        Some(text) => {
            let known = MODES.map(|(name, _)| name);
            let mode = MODES.into_iter().find(|(name, _)| *name == text).map(|(_, mode)| mode);
            mode.ok_or_else(|| format!("`sslmode` must be one of {}", list(&known)))?
        }
    };
    let checks = matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    if authorities.is_some() && !checks {
        return Err("`sslrootcert` is looked at with `sslmode=verify-full` only".to_owned());
    }
    if identity.is_some() && matches!(mode, PgSslMode::Disable) {
        return Err("`sslcert` has no meaning with `sslmode=disable`".to_owned());
    }
    // `system` is libpq's word for the authorities of the system, which are always among ours.
    Ok(Tls { mode, authorities: authorities.filter(|path| path != "system").map(PathBuf::from), identity })
}

fn limit_of(given: &mut BTreeMap<&'static str, String>) -> Result<Duration, String> {
    let Some(text) = given.remove("connect_timeout") else { return Ok(CONNECT_LIMIT) };
    let seconds = text.parse().ok().filter(|seconds| (1..=60).contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "`connect_timeout` must be a whole number of seconds from 1 to 60".to_owned())
}

/// `text` with its `%XX` replaced.
fn decoded(text: &str, what: &str) -> Result<String, String> {
    let bad =
        || format!("{what}: behind `%` must stand two hexadecimal digits that give UTF-8 text; a `%` itself is `%25`");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                u8::try_from(high * 16 + low).map_err(|_| bad())?
            }
            other => other,
        });
    }
    // PostgreSQL ends its texts with a NUL.
    String::from_utf8(out).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        url.parse()
    }

    fn hosts(url: &str) -> Vec<String> {
        parse(url).unwrap_or_else(|e| panic!("{url}: {e}")).hosts.iter().map(Host::to_string).collect()
    }

    #[test]
    fn every_part_is_read() {
        let url = "postgresql://at%6Cas:p%40s%2Fs:w%25@db1,db2:5433,[::1]:5434/at%20las?sslmode=verify-full&sslrootcert=%2Fetc/ca.pem&sslcert=c&sslkey=k&connect_timeout=7&target_session_attrs=read-write";
        let address = parse(url).unwrap();
        assert_eq!(hosts(url), ["db1:5432", "db2:5433", "[::1]:5434"]);
        assert_eq!((address.user.as_str(), address.database.as_str()), ("atlas", "at las"));
        assert_eq!(address.password.as_ref().unwrap().reveal(), "p@s/s:w%");
        assert_eq!(address.tls.authorities, Some("/etc/ca.pem".into()));
        assert_eq!(address.tls.identity, Some(("c".into(), "k".into())));
        assert_eq!(address.limit, Duration::from_secs(7));
        assert!(address.shown.starts_with("postgresql://at%6Cas:<secret>@db1,"), "{}", address.shown);
        assert!(address.shown.ends_with("target_session_attrs=read-write"));
        assert!(parse(&address.shown).is_ok(), "what is shown loads back");
    }

    #[test]
    fn hosts_may_be_sockets_and_lists_of_parameters() {
        assert_eq!(hosts("postgres://u@/d?host=/run/postgresql/"), ["/run/postgresql:5432"]);
        assert_eq!(hosts("postgres://u@%2Frun%2Fpostgresql:5433/d"), ["/run/postgresql:5433"]);
        assert_eq!(hosts("postgres://u@/d?host=a,b,::1&port=1,2,3"), ["a:1", "b:2", "[::1]:3"]);
        assert_eq!(hosts("postgres://u@/d?host=a,b&port=7"), ["a:7", "b:7"]);
        assert!(parse("postgres://u@/d?host=/run/postgresql").unwrap().hosts[0].is_socket());
    }

    /// E-11: the message names the part; the password, or what may be a piece of it, is not repeated.
    #[test]
    fn what_is_wrong_is_named_without_the_password() {
        for (url, words) in [
            ("postgres:u@h/d", FORM),
            ("mysql://u:canary@h/d", FORM),
            ("postgres://u:canary@h", "names no database"),
            ("postgres://u:canary@h/", "names no database"),
            ("postgres://h/d", "names no role"),
            ("postgres://:canary@h/d", "names no role"),
            ("postgres://u:canary@/d", "names no host"),
            ("postgres://u:canary@h:port/d", "the port of host 1"),
            ("postgres://u:canary@a,h:0/d", "the port of host 2"),
            ("postgres://u:canary@h:65536/d", "the port of host 1"),
            ("postgres://u:canary@a,,b/d", "host 2 is no name"),
            ("postgres://u:canary@::1/d", "an IPv6 address must stand in brackets"),
            ("postgres://u:canary@[::g]/d", "no IPv6 address"),
            ("postgres://u:canary@[::1/d", "must stand in brackets"),
            ("postgres://u:canary@h h/d", "host 1 is no name"),
            ("postgres://u:canary@a,a,a,a,a,a,a,a,a/d", "more than 8 hosts"),
            ("postgres://u:can@ary@h/d", "must be written `%2F`"),
            ("postgres://u:can/ary@h/d", "must be written `%2F`"),
            ("postgres://u:can?ary@h/d", "must be written `%2F`"),
            ("postgres://u:can#ary@h/d", "must be written `%2F`"),
            ("postgres://u:canary%4@h/d", "the password: behind `%`"),
            ("postgres://u:canary%ff@h/d", "the password: behind `%`"),
            ("postgres://u:canary%00@h/d", "the password: behind `%`"),
            ("postgres://u:canary@h/d/canary", "must not contain `/`"),
            ("postgres://u:canary@h/d?canary", "a parameter without a value"),
            ("postgres://u:canary@h/d?Canary=x", "unknown parameter; known are `host`"),
            ("postgres://u:canary@h/d?ssl-mode=require", "unknown parameter `ssl-mode`; did you mean `sslmode`?"),
            ("postgres://u:canary@h/d?password=canary", "unknown parameter `password`; known are"),
            ("postgres://u:canary@h/d?sslmode=require&sslmode=require", "`sslmode` is given twice"),
            ("postgres://u:canary@h/d?sslmode=allow", "must be one of `disable`, `prefer`"),
            ("postgres://u:canary@h/d?sslmode=require&sslrootcert=x", "`sslmode=verify-full` only"),
            ("postgres://u:canary@h/d?sslcert=x", "belong together"),
            ("postgres://u:canary@h/d?sslmode=disable&sslcert=x&sslkey=y", "no meaning"),
            ("postgres://u:canary@h/d?connect_timeout=0", "from 1 to 60"),
            ("postgres://u:canary@h/d?target_session_attrs=standby", "must be `read-write`"),
            ("postgres://u:canary@h/d?host=x", "although a host"),
            ("postgres://u:canary@h/d?port=1", "belongs behind the host"),
            ("postgres://u:canary@/d?host=a,b&port=1,2,3", "as many as"),
        ] {
            let said = parse(url).unwrap_err();
            assert!(said.contains(words), "{url}: {said}");
            assert!(!said.to_lowercase().contains("canary"), "{url}: {said}");
        }
    }

    #[test]
    fn the_same_database_is_known_by_other_words() {
        for (a, b, same) in [
            ("postgres://u@h/d", "postgresql://v:p@H.:5432/d?sslmode=require", true),
            ("postgres://u@localhost/d", "postgres://u@127.0.0.1/d", true),
            ("postgres://u@[::1]/d", "postgres://u@127.0.0.1/d", true),
            ("postgres://u@a,b/d", "postgres://u@c,b/d", true),
            ("postgres://u@h/d", "postgres://u@/d?host=h", true),
            ("postgres://u@/d?host=/tmp/", "postgres://u@/d?host=/tmp", true),
            ("postgres://u@h/d", "postgres://u@h/e", false),
            ("postgres://u@h/d", "postgres://u@h:5433/d", false),
            ("postgres://u@h/d", "postgres://u@i/d", false),
        ] {
            assert_eq!(parse(a).unwrap().is_same(&parse(b).unwrap()), same, "{a} {b}");
        }
    }

    #[test]
    fn a_way_that_is_not_protected_is_told() {
        for (url, words) in [
            ("postgres://u@h/d", Some("`sslmode=prefer` to `h:5432`")),
            ("postgres://u@localhost,10.0.0.1/d?sslmode=disable", Some("`sslmode=disable` to `10.0.0.1:5432`")),
            ("postgres://u@h/d?sslmode=require", Some("another server can pass for it")),
            ("postgres://u@h/d?sslmode=verify-ca", Some("any trusted authority")),
            ("postgres://u@h/d?sslmode=verify-full", None),
            ("postgres://u@h/d?sslrootcert=ca.pem", None),
            ("postgres://u@localhost/d", None),
            ("postgres://u@127.0.0.2,[::1]/d?sslmode=disable", None),
            ("postgres://u@/d?host=/run/postgresql", None),
        ] {
            let said = parse(url).unwrap().caution();
            assert_eq!(said.is_some(), words.is_some(), "{url}: {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{url}");
        }
    }
}
