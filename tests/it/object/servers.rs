//! S3 servers of others: moto for the protocol's edges, rclone as a warning, and any other one by environment variables (`.ci/long` does that with Garage).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atlas_sidecar::clock::Clock;
use atlas_sidecar::object::probe::{Verdict, destination, honours_create, keeps_notes};
use atlas_sidecar::object::{self, Destination, MOST_NOTE_BYTES, ObjectError, ObjectStore, Part, get_small, open_bare};
use atlas_sidecar::secret::Secret;
use tempfile::TempDir;

use super::{Stand, contract, key, noise};
use crate::support::python::environment;
use crate::support::{free_address, get, request, wait_for};

/// A program that ends with the test.
struct Server {
    child: Child,
    endpoint: String,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `program` of the environment with `arguments` on a free port, and waits until it answers.
    fn start(program: &str, arguments: impl Fn(&str, u16, &Path) -> Vec<String>) -> Self {
        let (address, folder) = (free_address(), tempfile::tempdir().unwrap());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // Ends with us, also where we are killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(environment("object", "object").join(program))
            .args(arguments(&address.ip().to_string(), address.port(), folder.path()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        wait_for(program, Duration::from_secs(60), || get(address, "/"));
        let server = Self { child, endpoint: format!("http://{address}"), _folder: folder };
        // A bucket, where a folder is not one already; moto asks for no signature.
        request("PUT", address, "/backups", &[("Content-Length", "0")]);
        server
    }

    fn moto() -> Self {
        Self::start("moto_server", |host, port, _| {
            vec!["-H".to_owned(), host.to_owned(), "-p".to_owned(), port.to_string()]
        })
    }

    fn rclone() -> Self {
        Self::start("rclone", |host, port, folder| {
            std::fs::create_dir(folder.join("backups")).unwrap();
            let address = format!("{host}:{port}");
            let words = ["serve", "s3", "--config", "/dev/null", "--auth-key", "AKIATESTKEY,test-secret-canary"];
            let more = ["--vfs-cache-mode", "off", "--addr", &address, folder.to_str().unwrap()];
            words.iter().chain(&more).map(|word| (*word).to_owned()).collect()
        })
    }

    fn settings(&self, prefix: &str) -> object::Settings {
        settings(&self.endpoint, "backups", prefix, "us-east-1", "AKIATESTKEY", "test-secret-canary")
    }
}

fn settings(endpoint: &str, bucket: &str, prefix: &str, region: &str, key: &str, secret: &str) -> object::Settings {
    object::Settings {
        destination: Destination::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() },
        s3: object::s3::Settings {
            endpoint: Some(endpoint.to_owned()),
            region: region.to_owned(),
            path_style: true,
            access_key_id: key.to_owned(),
            secret_access_key: Secret::new(secret),
            ..Default::default()
        },
    }
}

/// A prefix that no other test of this process has.
fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}/{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

struct OnMoto(Arc<dyn ObjectStore>);

impl Stand for OnMoto {
    async fn fresh() -> Self {
        static MOTO: OnceLock<Server> = OnceLock::new();
        Self(open_bare(&MOTO.get_or_init(Server::moto).settings(&prefix())).unwrap())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0)
    }
}

/// Takes some seconds: the server answers some 300 requests a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_on_moto() {
    contract::all::<OnMoto>().await;
    contract::of_many_creations_one_wins::<OnMoto>().await;
    contract::of_many_creations_with_notes_one_wins::<OnMoto>().await;
}

/// A server of whoever runs this test.
struct OnGiven(Arc<dyn ObjectStore>);

impl Stand for OnGiven {
    async fn fresh() -> Self {
        let given = |name: &str| {
            let name = format!("ATLAS_SIDECAR_TEST_S3_{name}");
            std::env::var(&name).unwrap_or_else(|_| panic!("`{name}` is not set: .ci/long starts a server and does"))
        };
        let settings = settings(
            &given("ENDPOINT"),
            &given("BUCKET"),
            &prefix(),
            &given("REGION"),
            &given("ACCESS_KEY_ID"),
            &given("SECRET_ACCESS_KEY"),
        );
        let checksum = match given("CHECKSUM").as_str() {
            "supported" => object::s3::Checksum::Supported,
            _ => object::s3::Checksum::Required,
        };
        let s3 = object::s3::Settings { checksum, ..settings.s3 };
        Self(open_bare(&object::Settings { s3, ..settings }).unwrap())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an S3 server in environment variables: .ci/long runs it against Garage"]
async fn the_contract_holds_on_a_given_server() {
    contract::all::<OnGiven>().await;
}

/// rclone takes everything, and keeps some of it: what it cannot do is found by the probe, and nothing is damaged silently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rclone_is_refused_clearly() {
    let server = Server::rclone();
    let store = open_bare(&server.settings("p")).unwrap();
    // What goes up from memory is kept whole.
    store.put(&key("a/k"), noise(3_000_000, 1)).await.unwrap();
    assert_eq!(get_small(&*store, &key("a/k"), 3_000_000).await.unwrap(), noise(3_000_000, 1));
    assert!(
        !honours_create(&*store).await.unwrap(),
        "rclone ignores If-None-Match; if it does no longer, README can say so"
    );
    // It has room for short notes only, and says so.
    let (short, long) = ("short", "x".repeat(MOST_NOTE_BYTES));
    store.create_noted(&key("a/short"), noise(10, 1), short).await.unwrap();
    assert_eq!(store.get(&key("a/short"), Part::default()).await.unwrap().note.as_deref(), Some(short));
    let refused = store.create_noted(&key("a/long"), noise(10, 1), &long).await;
    assert!(matches!(&refused, Err(ObjectError::Denied(words)) if words.contains("MetadataTooLarge")), "{refused:?}");
    assert!(matches!(keeps_notes(&*store).await, Err(ObjectError::Denied(_))));
    let Err(ObjectError::Corrupt(words)) = store.upload(&key("large")).await else {
        panic!("rclone begins uploads now")
    };
    assert!(words.contains("large") && words.contains("XML"), "{words}");
    let lines = destination(&server.settings("q"), &Clock::system()).await;
    let verdict = |name| lines.iter().find(|line| line.name == name).map(|line| line.verdict);
    assert_eq!(verdict("create twice"), Some(Verdict::Look), "{lines:#?}");
    assert_eq!(verdict("large object"), Some(Verdict::Bad), "{lines:#?}");
    assert_eq!(verdict("notes"), Some(Verdict::Look), "{lines:#?}");
    assert_eq!(verdict("delete"), Some(Verdict::Good), "{lines:#?}");
    for line in &lines {
        assert!(!line.words.contains("test-secret-canary"), "{line:?}");
    }
}
