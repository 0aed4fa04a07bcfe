//! Tasks that are named, awaited and survive a panic.
//!
//! Nothing is spawned that nobody joins: [`Tasks`] keeps every task and the token that ends them. A panic in a task or in
//! a piece of one ([`caught`]) becomes an error with the panic's words.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// A boxed future, so that ports can be trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A group of tasks that starts, stops and ends together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// A group that nothing has asked to stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that tells this group's tasks to stop.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts `work`; a panic in it is logged under `name` and ends this task only.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            if let Err(panic) = caught(work).await {
                error!(task = name, panic, "task panicked");
            }
        });
    }

    /// Asks all tasks to stop and waits until they have.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Runs `work`; a panic in it comes back as its message.
pub async fn caught<F: Future>(work: F) -> Result<F::Output, String> {
    Caught(Box::pin(work)).await
}

struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(words_of(panic.as_ref()))),
        }
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_comes_back_as_words() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let value = 7;
        let broken = caught(async move {
            if value == 7 {
                panic!("broke at {value}")
            }
        })
        .await;
        assert_eq!(broken, Err("broke at 7".to_owned()));
    }
}
