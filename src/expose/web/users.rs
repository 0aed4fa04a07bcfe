//! `basic_auth_users`: who may ask, and what it costs to find out.
//!
//! bcrypt is slow on purpose (cost 10: about 70 ms of a core), and Prometheus sends its password with every scrape. So a verdict is
//! remembered under a keyed digest of user, hash and password: the price is paid once, the password itself is kept nowhere,
//! and a changed hash is another digest. One computation runs at a time, on a thread of its own: a flood of guesses costs one
//! core, and whoever is already known does not wait behind it. An unknown user is checked against a hash that nothing
//! fits, so that the time does not tell which users exist.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// The dearest hash that is accepted: cost 16 takes about five seconds here, and each step doubles it.
const COST_MAX: u32 = 16;

/// The cheapest that bcrypt knows.
const COST_MIN: u32 = 4;

/// How long a request waits for the verdicts of others before it is told to come again.
const WAIT: Duration = Duration::from_secs(10);

/// Verdicts kept of either kind. Refusals have their own list, so that guesses cannot push out those who are known.
const REMEMBERED: usize = 256;

/// Salt and digest of the hash for unknown users; the cost in front of it is that of the dearest real one.
const NOBODY: &str = "QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// The users of the file with their bcrypt hashes.
pub struct Users {
    hashes: BTreeMap<String, String>,
    nobody: String,
}

impl Users {
    /// Checks that every hash is one.
    pub fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        let mut dearest = bcrypt::DEFAULT_COST.min(10);
        for (user, hash) in &hashes {
            let parts =
                HashParts::from_str(hash).ok().filter(|parts| parts.get_cost() >= COST_MIN).ok_or_else(|| {
                    format!(
                        "`basic_auth_users`: user `{user}`: this is no bcrypt hash; `htpasswd -nBC 10 {user}` makes one"
                    )
                })?;
            if parts.get_cost() > COST_MAX {
                return Err(format!("`basic_auth_users`: user `{user}`: bcrypt cost above {COST_MAX}"));
            }
            dearest = dearest.max(parts.get_cost());
        }
        Ok(Self { hashes, nobody: format!("$2y${dearest:02}${NOBODY}") })
    }

    /// Whether there are none: then nobody is asked for a password.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }
}

/// What comes of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are right.
    Allowed,
    /// There are none, or they are wrong.
    Refused,
    /// Too many others are being checked.
    Busy,
}

/// Decides, and remembers.
pub struct Gate {
    /// Makes the digests worthless outside of this process.
    key: [u8; 32],
    allowed: Mutex<Remembered>,
    refused: Mutex<Remembered>,
    one: Arc<Semaphore>,
}

impl Gate {
    /// A gate that remembers nothing yet.
    pub fn new() -> Result<Self, String> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| format!("no random numbers: {e}"))?;
        Ok(Self { key, allowed: Mutex::default(), refused: Mutex::default(), one: Arc::new(Semaphore::new(1)) })
    }

    /// Whether the `Authorization` header is that of one of `users`.
    pub async fn verdict(&self, users: &Users, authorization: Option<&[u8]>) -> Verdict {
        let Some((user, password)) = authorization.and_then(credentials) else { return Verdict::Refused };
        let known = std::str::from_utf8(&user).ok().and_then(|user| users.hashes.get(user));
        let hash = known.unwrap_or(&users.nobody).clone();
        let digest = self.digest(&user, hash.as_bytes(), &password);
        if let Some(verdict) = self.remembered(&digest) {
            return verdict;
        }
        let Ok(Ok(turn)) = timeout(WAIT, self.one.clone().acquire_owned()).await else { return Verdict::Busy };
        // The request before may have asked the same.
        if let Some(verdict) = self.remembered(&digest) {
            return verdict;
        }
        let known = known.is_some();
        // The turn goes along: whoever hangs up and comes again does not get a second computation beside the first.
        let work = spawn_blocking(move || (bcrypt::verify(&password, &hash).unwrap_or(false), turn));
        let Ok((fits, _turn)) = work.await else { return Verdict::Refused };
        let (verdict, list) = match fits && known {
            true => (Verdict::Allowed, &self.allowed),
            false => (Verdict::Refused, &self.refused),
        };
        list.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        verdict
    }

    fn digest(&self, user: &[u8], hash: &[u8], password: &[u8]) -> [u8; 32] {
        let mut sha = Sha256::new_with_prefix(self.key);
        for part in [user, hash, password] {
            // With its length, so that no two triples run together to the same bytes.
            sha.update((part.len() as u64).to_be_bytes());
            sha.update(part);
        }
        sha.finalize().into()
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Verdict> {
        let has =
            |list: &Mutex<Remembered>| list.lock().unwrap_or_else(PoisonError::into_inner).set.contains_key(digest);
        if has(&self.allowed) { Some(Verdict::Allowed) } else { has(&self.refused).then_some(Verdict::Refused) }
    }
}

/// The last [`REMEMBERED`] digests.
#[derive(Default)]
struct Remembered {
    set: HashMap<[u8; 32], ()>,
    order: VecDeque<[u8; 32]>,
}

impl Remembered {
    fn insert(&mut self, digest: [u8; 32]) {
        if self.set.insert(digest, ()).is_none() {
            self.order.push_back(digest);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

/// User and password of a `Basic` header (RFC 7617).
fn credentials(header: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = user.iter().position(|&byte| byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(list: &[(&str, &str)]) -> Users {
        // 4: the cheapest there is; the time of a real hash is measured against the running server.
        let hash = |password: &str| bcrypt::hash(password, 4).expect("a hash");
        Users::new(list.iter().map(|(u, p)| ((*u).to_owned(), hash(p))).collect()).expect("valid")
    }

    fn basic(text: &str) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(text)).into_bytes()
    }

    #[tokio::test]
    async fn verdicts() {
        let gate = Gate::new().expect("random numbers");
        let users = users(&[("ann", "se:cret"), ("bob", "")]);
        for _ in ["computed", "remembered"] {
            for (header, expected) in [
                (Some(basic("ann:se:cret")), Verdict::Allowed),
                (Some(basic("bob:")), Verdict::Allowed),
                (Some(basic("ann:secret")), Verdict::Refused),
                (Some(basic("bob:se:cret")), Verdict::Refused),
                (Some(basic("eve:fakepassword")), Verdict::Refused),
                (Some(basic("ann")), Verdict::Refused),
                (Some(b"Basic !!!".to_vec()), Verdict::Refused),
                (Some(b"Basic".to_vec()), Verdict::Refused),
                (Some(b"Bearer abc".to_vec()), Verdict::Refused),
                (None, Verdict::Refused),
            ] {
                assert_eq!(gate.verdict(&users, header.as_deref()).await, expected, "{header:?}");
            }
        }
        let lower = String::from_utf8(basic("ann:se:cret")).expect("ASCII").replacen("Basic", "bASIC", 1);
        assert_eq!(gate.verdict(&users, Some(lower.as_bytes())).await, Verdict::Allowed);
    }

    #[tokio::test]
    async fn a_changed_password_ends_the_old_one() {
        let gate = Gate::new().expect("random numbers");
        let header = basic("ann:old");
        assert_eq!(gate.verdict(&users(&[("ann", "old")]), Some(&header)).await, Verdict::Allowed);
        assert_eq!(gate.verdict(&users(&[("ann", "new")]), Some(&header)).await, Verdict::Refused);
        assert_eq!(gate.verdict(&users(&[("bob", "new")]), Some(&header)).await, Verdict::Refused);
    }

    #[tokio::test]
    async fn hanging_up_does_not_start_a_second_computation() {
        let gate = Gate::new().expect("random numbers");
        // 12 takes far longer than the wait below, also where the machine is fast.
        let hash = bcrypt::hash("right", 12).expect("a hash");
        let users = Users::new(BTreeMap::from([("ann".to_owned(), hash)])).expect("valid");
        let header = basic("ann:right");
        let hung_up = timeout(Duration::from_millis(20), gate.verdict(&users, Some(&header))).await;
        assert!(hung_up.is_err() && gate.one.available_permits() == 0);
        assert_eq!(gate.verdict(&users, Some(&header)).await, Verdict::Allowed);
        assert_eq!(gate.one.available_permits(), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut remembered = Remembered::default();
        for n in 0..REMEMBERED * 3 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(n as u64).to_be_bytes());
            remembered.insert(digest);
            remembered.insert(digest);
        }
        assert_eq!((remembered.set.len(), remembered.order.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn hashes_are_checked_and_not_repeated() {
        for (hash, part) in [
            ("canary", "user `ann`"),
            ("$2y$03$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi", "no bcrypt hash"),
            ("$2y$31$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi", "cost above 16"),
        ] {
            let error = Users::new(BTreeMap::from([("ann".to_owned(), hash.to_owned())])).err().expect("refused");
            assert!(error.contains(part) && !error.contains(hash), "{error}");
        }
    }
}
