//! How a session begins: the hosts in their order, and of each the question whether it is the one that we want.
//!
//! The first host is used that answers in time, can be written to, and runs the session as it was asked to. So a failover needs no restart and no
//! configuration: a standby says that it is one, and the next host is asked; names are resolved anew each time. An address list of DNS is one host:
//! each server needs a name of its own in the URL.
//!
//! The settings of a session (`SETTINGS`) are startup parameters, because they are promises: that a statement ends although we are gone, that times are
//! UTC. A pooler refuses them, or takes and forgets them; either is told as what it is. In transaction mode a pooler could keep no such promise;
//! in session mode it could, but nobody can tell the two apart from here.
//!
//! What sqlx takes from the environment (`PGPASSWORD`, `PGSSLROOTCERT`, …) is overwritten; where it cannot be, connecting is refused as long as the variable is
//! set. `~/.pgpass` is not read.
//!
//! After a round of all hosts that found none, the next one waits (`BACKOFF`): until then the answer is the last one.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Row};
use tracing::info;

use super::address::{Address, Host};
use super::errors;
use crate::retry::Backoff;
use crate::secret::Secret;

/// How the sidecar is named in `pg_stat_activity`.
const APPLICATION: &str = "atlas-sidecar";

/// What every session is told, in the units of `pg_settings`:
/// what a statement of ours may take where nobody set a shorter limit; how long it waits for a lock that somebody else holds; how long the server keeps
/// a transaction of ours in which nothing happens, because a sidecar that hangs must not hold back VACUUM; and T-3.
const SETTINGS: [(&str, &str); 4] = [
    ("statement_timeout", "30000"),
    ("lock_timeout", "2000"),
    ("idle_in_transaction_session_timeout", "60000"),
    ("TimeZone", "UTC"),
];

/// Variables that sqlx reads and lets nobody overwrite.
const VARIABLES: [&str; 3] = ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"];

/// Between two rounds that found no server: short, because a restart takes a second; not shorter, because a hundred sidecars may wait for one.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };

const POOLER: &str =
    "this is a pooler (pgbouncer), which does not keep a session's settings; give the address of the server itself";

/// Where sessions are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// `host:port`
    pub host: String,
    /// The server's version.
    pub version: String,
    /// The version of TLS, where sessions are encrypted.
    pub tls: Option<String>,
}

/// What begins sessions.
pub struct Connector {
    address: Address,
    password: Option<Secret>,
    home: Mutex<Option<Home>>,
}

/// The rounds that found no server. Who reads has others than who writes: a database may be read that cannot be written to.
#[derive(Default)]
pub struct Rounds {
    failures: u32,
    last: Option<(Instant, String)>,
}

impl Connector {
    /// For the servers at `address`; a password beside the URL is the stronger one.
    pub fn new(address: Address, password: Option<&Secret>) -> Self {
        let password = password.or(address.password.as_ref()).cloned();
        Self { address, password, home: Mutex::default() }
    }

    /// The URL without its password.
    pub fn shown(&self) -> &str {
        &self.address.shown
    }

    /// Where the last session began.
    pub fn home(&self) -> Option<Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new session on the first host that is the one. The error names all of them.
    pub async fn connect(&self, reading: bool, rounds: &mut Rounds) -> Result<PgConnection, sqlx::Error> {
        if let Some((until, why)) = &rounds.last
            && Instant::now() < *until
        {
            return Err(unreachable(why));
        }
        match self.round(reading).await {
            Ok(connection) => {
                *rounds = Rounds::default();
                Ok(connection)
            }
            Err(why) => {
                rounds.failures = rounds.failures.saturating_add(1);
                let wait = BACKOFF.wait(rounds.failures, RandomState::new().build_hasher().finish());
                let error = unreachable(&why);
                rounds.last = Some((Instant::now() + wait, why));
                Err(error)
            }
        }
    }

    async fn round(&self, reading: bool) -> Result<PgConnection, String> {
        if let Some(variable) = VARIABLES.iter().find(|name| self.is_disturbed_by(name)) {
            return Err(format!("the variable `{variable}` is set; unset it: sessions are as the configuration says"));
        }
        let mut refused = Vec::new();
        for host in &self.address.hosts {
            let limit = self.address.limit;
            match tokio::time::timeout(limit, self.session(host, reading)).await {
                Ok(Ok((connection, home))) => {
                    self.arrive(home);
                    return Ok(connection);
                }
                Ok(Err(why)) => refused.push(format!("`{host}`: {why}")),
                Err(_) => refused.push(format!("`{host}`: no answer in {limit:?}")),
            }
        }
        Err(refused.join("; "))
    }

    fn is_disturbed_by(&self, variable: &str) -> bool {
        let ours = variable != "PGOPTIONS" && self.address.tls.identity.is_some();
        !ours && std::env::var_os(variable).is_some()
    }

    fn arrive(&self, home: Home) {
        let mut known = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = known.as_ref().filter(|before| before.host != home.host) {
            info!(from = before.host, to = home.host, "the database is at another host now");
        }
        *known = Some(home);
    }

    /// A session on `host`, or why there is none.
    async fn session(&self, host: &Host, reading: bool) -> Result<(PgConnection, Home), String> {
        self.look_at_files().await?;
        let mut connection = self.options(host, reading).connect().await.map_err(|e| words(&e))?;
        self.look_at_settings(&mut connection).await?;
        let about = sqlx::raw_sql(
            "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on', current_setting('server_version'), \
             (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl)",
        );
        let row = about.fetch_one(&mut connection).await.map_err(|e| words(&e))?;
        let column = |e: sqlx::Error| e.to_string();
        if row.try_get(0).map_err(column)? {
            return Err("a standby, which cannot be written to".to_owned());
        }
        if !reading && row.try_get(1).map_err(column)? {
            return Err("cannot be written to: `default_transaction_read_only` is on".to_owned());
        }
        let home = Home {
            host: host.to_string(),
            version: row.try_get(2).map_err(column)?,
            tls: row.try_get(3).map_err(column)?,
        };
        Ok((connection, home))
    }

    /// The files of TLS can be read: sqlx's error would not say which one cannot.
    async fn look_at_files(&self) -> Result<(), String> {
        let tls = &self.address.tls;
        let (certificate, key) = tls.identity.as_ref().map_or((None, None), |(c, k)| (Some(c), Some(k)));
        for (parameter, path) in [("sslrootcert", tls.authorities.as_ref()), ("sslcert", certificate), ("sslkey", key)]
        {
            if let Some(path) = path {
                let cannot = |e: io::Error| format!("cannot read `{parameter}`, `{}`: {e}", path.display());
                tokio::fs::read(path).await.map_err(cannot)?;
            }
        }
        Ok(())
    }

    /// Whether the session is as it was asked to be.
    async fn look_at_settings(&self, connection: &mut PgConnection) -> Result<(), String> {
        let names = SETTINGS.map(|(name, _)| format!("'{name}'")).join(", ");
        let query = format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})");
        let rows = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(connection).await.map_err(|e| words(&e))?;
        let pair = |row| Ok::<_, sqlx::Error>((Row::try_get(row, 0)?, Row::try_get(row, 1)?));
        let found: BTreeMap<String, String> = rows.iter().map(pair).collect::<Result<_, _>>().map_err(|e| words(&e))?;
        match SETTINGS.iter().find(|(name, value)| found.get(*name).is_none_or(|found| found != value)) {
            None => Ok(()),
            Some((name, value)) => {
                let is = found.get(*name).map_or("missing", String::as_str);
                Err(format!("{POOLER} (`{name}` is `{is}` although the session asked for `{value}`)"))
            }
        }
    }

    fn options(&self, host: &Host, reading: bool) -> PgConnectOptions {
        let Address { user, database, tls, .. } = &self.address;
        // `new` would look for a password in `~/.pgpass`.
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&host.place)
            .port(host.port)
            .username(user)
            .password(self.password.as_ref().map_or("", Secret::reveal))
            .database(database)
            .application_name(APPLICATION)
            .disable_statement_logging()
            // Since PostgreSQL 12 floats are written exactly without it; poolers refuse it.
            .extra_float_digits(None)
            .options(SETTINGS)
            // A socket has no way that somebody could listen on; servers offer no TLS there.
            .ssl_mode(if host.is_socket() { PgSslMode::Disable } else { tls.mode });
        options = match &tls.authorities {
            Some(path) => options.ssl_root_cert(path),
            // In the place of a variable's.
            None => options.ssl_root_cert_from_pem(Vec::new()),
        };
        if let Some((certificate, key)) = &tls.identity {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        match reading {
            true => options.options([("default_transaction_read_only", "on")]),
            false => options,
        }
    }
}

fn unreachable(why: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, why))
}

/// Why there is no session, for people.
fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(e) => match (e.kind(), e.get_ref().and_then(|inner| inner.downcast_ref())) {
            (_, Some(tls)) => words_of_tls(tls),
            (io::ErrorKind::ConnectionRefused, _) => "connection refused".to_owned(),
            (io::ErrorKind::NotFound, _) => "no server listens at this socket".to_owned(),
            (io::ErrorKind::UnexpectedEof, _) => "the server closed the connection".to_owned(),
            _ => e.to_string(),
        },
        sqlx::Error::Tls(e) if e.to_string().contains("does not support TLS") => {
            "the server offers no TLS; `sslmode` asks for it".to_owned()
        }
        sqlx::Error::Tls(e) => format!("TLS: {e}"),
        sqlx::Error::Configuration(e) => e.to_string(),
        // pgbouncer: `unsupported startup parameter: options`, since 1.20 `… in options: statement_timeout`.
        sqlx::Error::Database(e) if e.message().contains("unsupported startup parameter") => {
            format!("{POOLER} (it says: {})", e.message())
        }
        other => errors::said(other),
    }
}

fn words_of_tls(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else { return format!("TLS: {error}") };
    let what = match bad {
        // Of another authority with the name of a trusted one: of one that was made anew.
        Bad::UnknownIssuer | Bad::BadSignature => {
            "no authority that is trusted has signed it; name the one that did with `sslrootcert=FILE`".to_owned()
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => format!("it is for another host ({bad})"),
        Bad::Expired | Bad::ExpiredContext { .. } => format!("it has expired ({bad})"),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => format!("it is not valid yet ({bad})"),
        // `openssl req -x509` makes such a certificate, and so does the server's manual.
        other if other.to_string().contains("CaUsedAsEndEntity") => {
            "it is an authority's own; sign another one for the server with it (`basicConstraints = CA:FALSE`)"
                .to_owned()
        }
        other => other.to_string(),
    };
    format!("the server's certificate is refused: {what}")
}
