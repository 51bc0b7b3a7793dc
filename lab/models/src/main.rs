//! Models of what several threads do with one loop, checked by loom in every order that the memory model allows.
//!
//! The files under test are the crate's own, compiled with loom's types (`sync.rs`) and a kernel of the model
//! (`sys.rs`). A model must not differ from the loop in the order of its steps: [`Loop`] says whose steps they are.
//!
//! `rloop-models NAME SECONDS [PREEMPTIONS]` checks one model, and prints how many orders it has tried, and whether these
//! were all. It panics if one of them loses a wake-up, an entry or a waiter. `rloop-models` prints the names.

// The files under test name `mio::Registry` and `mio::Token`. In this program these are the model's.
extern crate self as mio;

mod reactor;
mod sync;
mod sys;

#[allow(dead_code)]
#[path = "../../../src/core/ending.rs"]
mod ending;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ending::{AtClose, Ending};
use loom::thread;
use reactor::ready::{Inbox, ReadyQueue, Refused};
use reactor::waker::Waker;
use sync::{AtomicBool, Ordering::SeqCst};
pub use sys::{Registry, Token};

/// How often loom may take the processor away from a thread that could go on. Errors that need more are rare, and the
/// number of orders grows fast.
const PREEMPTIONS: usize = 3;

/// Each model: its name, and one run of it.
const MODELS: [(&str, fn()); 7] = [
    ("wake-ups", wake_ups),
    ("wake-ups-of-two", wake_ups_of_two),
    ("failing-wake-up", failing_wake_up),
    ("stop", stop),
    ("close", close),
    ("close-while-waiting", close_while_waiting),
    ("end", end),
];

/// What the loop shares with other threads.
struct Loop {
    poll: Arc<sys::Poll>,
    waker: Waker,
    inbox: Inbox<u32>,
    stopping: AtomicBool,
    ending: Ending,
}

impl Loop {
    fn new(failures: u32) -> Arc<Self> {
        let poll = sys::Poll::new(failures);
        let waker = Waker::new(&Registry(RefCell::new(poll.clone())), Token(0)).expect("a waker");
        let (inbox, stopping, ending) = (Inbox::new(), AtomicBool::new(false), Ending::default());
        Arc::new(Self { poll, waker, inbox, stopping, ending })
    }

    /// The steps of a turn before its callbacks run, in the order of `run.rs`: `LoopCore::awake`, `is_busy`,
    /// `next_deadline`, `park`, the wait, `put_poller`, `queue_found`.
    fn turn(&self, ready: &mut ReadyQueue<u32>) {
        self.waker.unpark();
        ready.receive(&self.inbox);
        if ready.is_empty() && !self.stopping.load(SeqCst) {
            let may_block = self.waker.park() && self.inbox.is_empty() && !self.stopping.load(SeqCst);
            if may_block {
                self.poll.wait();
            }
            self.waker.unpark();
        }
        ready.receive(&self.inbox);
    }

    /// `LoopCore::close`. Returns the entries that the inbox still had.
    fn close(&self) -> usize {
        let left = self.inbox.close();
        self.waker.close();
        self.ending.complete();
        left.len()
    }

    /// `LoopCore::send`. False if the loop is closed.
    fn send(&self, entry: u32) -> bool {
        match self.inbox.send(entry, || 0) {
            Ok(()) => self.waker.wake().expect("the second try at least"),
            Err(Refused::Closed(_)) => return false,
            Err(Refused::NoMemory(_)) => unreachable!("there is memory"),
        }
        true
    }

    /// Runs turns of the loop until it has received this number of entries. If a wake-up is lost, this never ends.
    fn receive(&self, count: usize) -> Vec<u32> {
        let (mut ready, mut received) = (ReadyQueue::new(), Vec::new());
        while received.len() < count {
            self.turn(&mut ready);
            received.extend(ready.drain());
        }
        received
    }
}

/// A thread sends twice: both entries come, in their order.
fn wake_ups() {
    let this = Loop::new(0);
    let sender = in_thread(&this, |this| assert!(this.send(1) && this.send(2)));
    assert_eq!(this.receive(2), [1, 2]);
    sender.join().expect("the sender");
}

/// Two threads send: the one that finds the loop notified relies on the other's wake-up.
fn wake_ups_of_two() {
    let this = Loop::new(0);
    let senders = [1, 2].map(|entry| in_thread(&this, move |this| assert!(this.send(entry))));
    let mut received = this.receive(2);
    received.sort_unstable();
    assert_eq!(received, [1, 2]);
    senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
}

/// The same while the first system call of a wake-up fails.
fn failing_wake_up() {
    let this = Loop::new(1);
    let senders = [1, 2].map(|entry| in_thread(&this, move |this| assert!(this.send(entry))));
    assert_eq!(this.receive(2).len(), 2);
    senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
}

/// A thread stops the loop, as `LoopHandle::stop` does: a loop that waits wakes.
fn stop() {
    let this = Loop::new(0);
    let stopper = in_thread(&this, |this| {
        assert!(this.ending.begin());
        this.stopping.store(true, SeqCst);
        this.waker.wake().expect("wake");
    });
    let mut ready = ReadyQueue::new();
    while !this.stopping.load(SeqCst) {
        this.turn(&mut ready);
    }
    assert!(this.ending.has_begun() && !this.ending.begin());
    stopper.join().expect("the stopper");
}

/// The loop closes while two threads send: each entry is either received or given back, and no closed fd is used.
fn close() {
    let this = Loop::new(0);
    let senders = [1, 2].map(|entry| in_thread(&this, move |this| this.send(entry)));
    let mut ready = ReadyQueue::new();
    ready.receive(&this.inbox);
    let left = this.close();
    let accepted = senders.into_iter().map(|sender| usize::from(sender.join().expect("a sender"))).sum();
    assert_eq!(ready.len() + left, accepted, "an entry is lost, or comes twice");
    assert!(this.inbox.is_empty());
}

/// The same after a wait: one thread's entry has woken the loop, the other thread's comes whenever it comes.
fn close_while_waiting() {
    let this = Loop::new(0);
    let first = in_thread(&this, |this| assert!(this.send(1)));
    let second = in_thread(&this, |this| this.send(2));
    let (mut ready, mut received) = (ReadyQueue::new(), Vec::new());
    while !received.contains(&1) {
        this.turn(&mut ready);
        received.extend(ready.drain());
    }
    let received = received.len() + this.close();
    first.join().expect("the first sender");
    assert_eq!(received, 1 + usize::from(second.join().expect("the second sender")));
}

/// Counts how often it was called.
#[derive(Default)]
struct Waiter(AtomicU64);

impl AtClose for Waiter {
    fn at_close(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A thread gives work to a loop that ends, as `spawn` does: it waits for the end first, then sends. Then the work is
/// refused, or it is received, or who waits is called. A third thread waits for the end, as `shutdown` does.
fn end() {
    let this = Loop::new(0);
    let waiter = Arc::new(Waiter::default());
    let spawner = {
        let waiter = waiter.clone();
        in_thread(&this, move |this| {
            let token = this.ending.wait(waiter);
            let accepted = this.send(1);
            if !accepted {
                this.ending.leave(token);
            }
            accepted
        })
    };
    let waiting = in_thread(&this, |this| assert!(this.ending.wait_closed(Duration::ZERO)));
    this.close();
    let accepted = spawner.join().expect("the spawner");
    waiting.join().expect("who waits for the end");
    let calls = waiter.0.load(Relaxed);
    assert!(calls <= 1 && (!accepted || calls == 1), "accepted: {accepted}, called {calls} times");
    assert!(this.ending.has_begun());
}

fn in_thread<R: 'static>(
    this: &Arc<Loop>,
    body: impl FnOnce(Arc<Loop>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let this = this.clone();
    thread::spawn(move || body(this))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        return MODELS.iter().for_each(|(name, _)| println!("{name}"));
    };
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(60);
    let preemptions = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(PREEMPTIONS);
    let &(_, model) = MODELS.iter().find(|(other, _)| *other == name).expect("the name of a model");
    let (tried, limit) = (Arc::new(AtomicU64::new(0)), Duration::from_secs(seconds));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_duration = Some(limit);
    let (counted, started) = (tried.clone(), Instant::now());
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    let all = if started.elapsed() < limit { "all" } else { "not all" };
    println!("{name}: {} orders with at most {preemptions} preemptions, {all}", tried.load(Relaxed));
}
