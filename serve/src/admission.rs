//! Who generates now, who waits in line, who is sent away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::openai::{ApiError, ErrorKind};

/// Gives out slots in the order of arrival and bounds how many may wait for one.
#[derive(Debug)]
pub struct Admission {
    slots: Arc<Semaphore>,
    all_slots: AtomicUsize,
    waiting: AtomicUsize,
    max_queue: usize,
    /// How many may wait here; none where the engine keeps the line.
    places: AtomicUsize,
}

/// The right to generate; dropping it lets the next one in.
#[derive(Debug)]
pub struct Permit {
    _slot: OwnedSemaphorePermit,
}

impl Admission {
    /// `max_concurrent` requests generate at a time, `max_queue` more may wait.
    pub fn new(max_concurrent: usize, max_queue: usize) -> Self {
        let slots = Arc::new(Semaphore::new(max_concurrent));
        let (all_slots, places) = (AtomicUsize::new(max_concurrent), AtomicUsize::new(max_queue));
        Self { slots, all_slots, waiting: AtomicUsize::new(0), max_queue, places }
    }

    /// From now on everybody is let in whom an engine can take that does `max_concurrent` requests at a time and keeps
    /// the line of the others itself. To be called once, before the first request.
    pub fn leave_the_line_to_the_engine(&self, max_concurrent: usize) {
        let all_slots = max_concurrent.saturating_add(self.max_queue).min(Semaphore::MAX_PERMITS);
        let before = self.all_slots.swap(all_slots, Ordering::SeqCst);
        self.slots.add_permits(all_slots.saturating_sub(before));
        self.slots.forget_permits(before.saturating_sub(all_slots));
        self.places.store(0, Ordering::SeqCst);
    }

    /// How many requests generate.
    pub fn running(&self) -> usize {
        self.all_slots.load(Ordering::SeqCst) - self.slots.available_permits()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A slot: at once, or after waiting in line. Dropping the future leaves the line.
    ///
    /// # Errors
    /// [`ErrorKind::QueueFull`], at once, when the line is full.
    pub async fn admit(&self) -> Result<Permit, ApiError> {
        // The semaphore is fair: while somebody waits, released slots go to them and this finds none.
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(Permit { _slot: slot });
        }
        let _place = self.take_place()?;
        let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        Ok(Permit { _slot: slot })
    }

    fn take_place(&self) -> Result<Place<'_>, ApiError> {
        let places = self.places.load(Ordering::SeqCst);
        let place = |waiting| (waiting < places).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, place) {
            Ok(_) => Ok(Place(&self.waiting)),
            Err(_) => {
                let waiting = self.max_queue;
                let message = format!("rate limit: {waiting} requests are waiting already; retry later");
                Err(ApiError::new(ErrorKind::QueueFull, message))
            }
        }
    }
}

/// A place in line, given up when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_runs_one_waits_one_is_sent_away() {
        let admission = Arc::new(Admission::new(1, 1));
        let first = admission.admit().await.unwrap();
        let second = tokio::spawn({
            let admission = admission.clone();
            async move { admission.admit().await.map(|_| ()) }
        });
        while admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(admission.admit().await.unwrap_err().kind(), ErrorKind::QueueFull);
        assert_eq!(admission.running(), 1);
        drop(first);
        second.await.unwrap().unwrap();
        assert_eq!((admission.running(), admission.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn leaving_the_line_frees_the_place() {
        let admission = Admission::new(1, 1);
        let _running = admission.admit().await.unwrap();
        tokio::select! {
            biased;
            _ = admission.admit() => unreachable!("the slot is taken"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn an_engine_that_keeps_the_line_is_given_all_of_it() {
        let admission = Admission::new(1, 2);
        admission.leave_the_line_to_the_engine(3);
        let mut permits = Vec::new();
        for _ in 0..5 {
            permits.push(admission.admit().await.unwrap());
        }
        let refused = admission.admit().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QueueFull);
        let message = refused.body()["error"]["message"].to_string();
        assert!(message.contains("2 requests are waiting"), "{message}");
        assert_eq!((admission.running(), admission.waiting()), (5, 0));
        permits.pop();
        permits.push(admission.admit().await.unwrap());
    }

    #[tokio::test]
    async fn without_a_queue_nobody_waits() {
        let admission = Admission::new(1, 0);
        let _running = admission.admit().await.unwrap();
        assert_eq!(admission.admit().await.unwrap_err().kind(), ErrorKind::QueueFull);
    }
}
