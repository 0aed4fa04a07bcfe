//! Questions that may never be answered: `statfs` of a mount whose server is gone, a sensor on a dead bus. Such a call cannot be
//! cancelled, and a thread inside it cannot be ended (node_exporter#244, #475, #578).
//!
//! So they are asked from threads of their own. A round starts one thread, which takes one question after another; when no answer
//! has come for `PAUSE`, the next thread goes on with the questions that are left. Nearly always that is one short-lived thread; each hung
//! question costs the others one pause. What is unanswered when patience ends is remembered, and not asked again until
//! its thread is back: at most one thread per question, at most `MAX_THREADS` in all. Nobody joins them, by design: neither a
//! round nor the shutdown may wait for a server that is gone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// How long the first thread may be silent before another one helps. A local `statfs` takes microseconds, a register over I²C
/// half a millisecond (45 bits at 100 kHz).
const PAUSE: Duration = Duration::from_millis(50);

/// All threads of one asker, the hung ones included: the most hung mounts beside which the others are still asked, less one.
const MAX_THREADS: usize = 32;

/// Someone who asks `answer` about keys, in threads that may hang.
pub struct Aside<K, T> {
    name: &'static str,
    answer: Arc<dyn Fn(&K) -> T + Send + Sync>,
    asked: Arc<Mutex<HashSet<K>>>,
    threads: Arc<AtomicUsize>,
}

impl<K, T> Aside<K, T>
where
    K: Clone + Debug + Eq + Hash + Send + 'static,
    T: Send + 'static,
{
    /// An asker; `name` is what its threads and its messages are called.
    pub fn new(name: &'static str, answer: impl Fn(&K) -> T + Send + Sync + 'static) -> Self {
        Self { name, answer: Arc::new(answer), asked: Arc::default(), threads: Arc::default() }
    }

    /// The answers that came within `patience`. A key without one is stuck, or was not reached because too many others are.
    pub async fn ask(&self, keys: impl IntoIterator<Item = K>, patience: Duration) -> HashMap<K, T> {
        let deadline = Instant::now() + patience;
        let keys = self.free(keys);
        let round = Round { keys: Arc::new(Mutex::new(keys.iter().cloned().collect())) };
        // Never holds more than one answer per key.
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut answers = HashMap::with_capacity(keys.len());
        let mut helpers = 0;
        while answers.len() < keys.len() {
            if round.left() > 0 && self.start(&round, &sender) {
                helpers += 1;
            }
            if helpers == 0 {
                break;
            }
            // As long as answers come, one thread is enough.
            while answers.len() < keys.len() {
                match timeout_at(deadline.min(Instant::now() + PAUSE), receiver.recv()).await {
                    Ok(Some((key, answer))) => drop(answers.insert(key, answer)),
                    _ => break,
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        self.tell_stuck(&keys, &answers);
        answers
    }

    /// The keys that no thread is busy with, each once.
    fn free(&self, keys: impl IntoIterator<Item = K>) -> Vec<K> {
        let asked = lock(&self.asked);
        let mut seen = HashSet::new();
        keys.into_iter().filter(|key| !asked.contains(key) && seen.insert(key.clone())).collect()
    }

    /// Starts a thread that works on `round`; `false` where there are too many, or the system gives none.
    fn start(&self, round: &Round<K>, sender: &mpsc::UnboundedSender<(K, T)>) -> bool {
        let Some(place) = Place::take(&self.threads) else { return false };
        let (keys, asked) = (round.keys.clone(), self.asked.clone());
        let (answer, sender) = (self.answer.clone(), sender.clone());
        let work = move || {
            let _place = place;
            loop {
                // A statement of its own: the lock must not be held while the question is asked.
                let next = lock(&keys).pop_front();
                let Some(key) = next else { break };
                let Some(mark) = Mark::set(&asked, &key) else { continue };
                let said = answer(&key);
                drop(mark);
                if sender.send((key, said)).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new().name(self.name.to_owned()).spawn(work).is_ok()
    }

    /// Says once which keys this round lost; later rounds leave them out silently.
    fn tell_stuck(&self, keys: &[K], answers: &HashMap<K, T>) {
        let asked = lock(&self.asked);
        for key in keys.iter().filter(|key| asked.contains(key) && !answers.contains_key(key)) {
            warn!(source = self.name, ?key, "no answer: left out until it answers");
        }
    }
}

/// The keys that a round has still to ask. When the round ends, or is dropped, no thread takes another one.
struct Round<K> {
    keys: Arc<Mutex<VecDeque<K>>>,
}

impl<K> Round<K> {
    fn left(&self) -> usize {
        lock(&self.keys).len()
    }
}

impl<K> Drop for Round<K> {
    fn drop(&mut self) {
        lock(&self.keys).clear();
    }
}

/// One of [`MAX_THREADS`], free again when dropped, also by a panic.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(threads: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < MAX_THREADS).then_some(n + 1);
        threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self(threads.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A key that a thread is busy with; taken back when the thread returns, also by a panic.
struct Mark<K: Eq + Hash> {
    key: K,
    asked: Arc<Mutex<HashSet<K>>>,
}

impl<K: Clone + Eq + Hash> Mark<K> {
    fn set(asked: &Arc<Mutex<HashSet<K>>>, key: &K) -> Option<Self> {
        lock(asked).insert(key.clone()).then(|| Self { key: key.clone(), asked: asked.clone() })
    }
}

impl<K: Eq + Hash> Drop for Mark<K> {
    fn drop(&mut self) {
        lock(&self.asked).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;

    const PATIENCE: Duration = Duration::from_millis(800);

    /// A door that holds threads until it is opened.
    #[derive(Default)]
    struct Door(Mutex<bool>, Condvar);

    impl Door {
        fn wait(&self) {
            let _open = self.1.wait_while(lock(&self.0), |open| !*open);
        }

        fn open(&self) {
            *lock(&self.0) = true;
            self.1.notify_all();
        }
    }

    /// An asker who hangs at the keys from 100 on, with what it was asked.
    fn hanging(door: &Arc<Door>) -> (Aside<u32, u32>, Arc<Mutex<Vec<u32>>>) {
        let (door, asked) = (door.clone(), Arc::<Mutex<Vec<u32>>>::default());
        let log = asked.clone();
        let aside = Aside::new("test", move |key: &u32| {
            lock(&log).push(*key);
            if *key >= 100 {
                door.wait();
            }
            key * 2
        });
        (aside, asked)
    }

    /// A thread that has answered still needs a moment to end.
    async fn until_threads(aside: &Aside<u32, impl Send + 'static>, count: usize) {
        let limit = Instant::now() + Duration::from_secs(10);
        while aside.threads.load(Ordering::SeqCst) != count {
            assert!(Instant::now() < limit, "{} threads", aside.threads.load(Ordering::SeqCst));
            tokio::task::yield_now().await;
        }
    }

    fn sorted(answers: HashMap<u32, u32>) -> Vec<u32> {
        let mut keys: Vec<_> = answers.into_keys().collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test]
    async fn one_thread_answers_everything() {
        let (aside, _) = hanging(&Arc::default());
        let answers = aside.ask([1, 2, 3, 2], PATIENCE).await;
        assert_eq!((answers.len(), answers[&3]), (3, 6));
        assert!(aside.ask([], PATIENCE).await.is_empty());
    }

    #[tokio::test]
    async fn a_hung_question_is_asked_once_and_forgiven() {
        let door = Arc::<Door>::default();
        let (aside, asked) = hanging(&door);
        let start = Instant::now();
        assert_eq!(sorted(aside.ask([100, 1, 101, 2], PATIENCE).await), [1, 2]);
        assert!(start.elapsed() < PATIENCE * 2, "{:?}", start.elapsed());
        for _ in 0..5 {
            let start = Instant::now();
            assert_eq!(sorted(aside.ask([100, 1, 101, 2], PATIENCE).await), [1, 2]);
            assert!(start.elapsed() < PATIENCE, "hung keys are not waited for again");
        }
        assert_eq!(lock(&asked).iter().filter(|k| **k >= 100).count(), 2, "never a second thread for one key");
        until_threads(&aside, 2).await;
        door.open();
        until_threads(&aside, 0).await;
        assert_eq!(sorted(aside.ask([100, 1, 101, 2], PATIENCE).await), [1, 2, 100, 101]);
    }

    #[tokio::test]
    async fn threads_are_bounded_and_a_round_ends_at_once_when_there_are_none() {
        let door = Arc::<Door>::default();
        let (aside, _) = hanging(&door);
        // Time for all threads to start and hang.
        let patience = PAUSE * (MAX_THREADS as u32 + 4);
        assert!(aside.ask(100..200, patience).await.is_empty());
        assert_eq!(aside.threads.load(Ordering::SeqCst), MAX_THREADS);
        let start = Instant::now();
        assert!(aside.ask([1, 2], patience).await.is_empty());
        assert!(start.elapsed() < patience / 2);
        door.open();
    }

    #[tokio::test]
    async fn a_dropped_round_leaves_no_work_behind() {
        let door = Arc::<Door>::default();
        let (aside, asked) = hanging(&door);
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, aside.ask([100, 1, 2, 3], PATIENCE)).await.is_err());
        door.open();
        until_threads(&aside, 0).await;
        assert!(lock(&asked).iter().all(|key| *key == 100), "{:?}", lock(&asked));
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_answer() {
        let aside = Aside::new("test", |key: &u32| assert!(*key != 7, "asked for"));
        let answers = aside.ask([7, 1, 2], PATIENCE).await;
        assert_eq!(answers.len(), 2);
        until_threads(&aside, 0).await;
        assert!(lock(&aside.asked).is_empty());
    }
}
