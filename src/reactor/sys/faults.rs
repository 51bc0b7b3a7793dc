//! System calls that fail on purpose: only with the feature `faults`, which no wheel has. For the laboratory.
//!
//! A *schedule* is a list of rules that a test sets. A rule says: from the nth call of this name on, so many calls fail
//! with this errno, or are cut short. A *mode* holds for the whole process, and comes from the environment variable
//! `RLOOP_FAULTS`. Nothing of a transport may live here, and no Python.
//!
//! Edge-triggered polls need care. When a read says EAGAIN or is short, the kernel promises to report the file once
//! more, as soon as there is something. After a fault of this kind the kernel knows of no promise. So it is *owed*: the
//! next wait first makes the kernel report every file anew that is ready ([`before_wait`]). That reports only what is
//! true, and only after such a fault.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::call::Call;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call is not made, and fails with this errno.
    Errno(i32),
    /// The call is made, and fails with this errno all the same, as a connect does that goes on by itself.
    After(i32),
    /// The call is asked for no more than this number of bytes, buffers or messages.
    Short(usize),
}

/// A line of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Which call.
    pub call: Call,
    /// The first call of this name that is concerned, counted from 1.
    pub first: u64,
    /// How many calls are concerned.
    pub times: u64,
    /// What happens to them.
    pub fault: Fault,
}

/// How many calls of one name were made, and how many of them had a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub made: u64,
    pub failed: u64,
}

/// The rules, and what was counted since they were set.
struct Schedule {
    rules: Vec<Rule>,
    counts: [Count; Call::ALL.len()],
}

impl Schedule {
    const EMPTY: Self = Self { rules: Vec::new(), counts: [Count { made: 0, failed: 0 }; Call::ALL.len()] };

    /// Counts a call, and says what is to happen to it.
    fn next(&mut self, call: Call) -> Option<Fault> {
        let count = &mut self.counts[call as usize];
        count.made += 1;
        let concerns = |rule: &&Rule| {
            rule.call == call && count.made >= rule.first && count.made - rule.first < rule.times
        };
        let fault = self.rules.iter().find(concerns).map(|rule| rule.fault);
        count.failed += u64::from(fault.is_some());
        fault
    }
}

static SCHEDULE: Mutex<Schedule> = Mutex::new(Schedule::EMPTY);
/// True while calls are counted. Otherwise the mutex is not touched: the child of a fork may find it locked.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// How many times the kernel was owed a report.
static OWED: AtomicU64 = AtomicU64::new(0);

/// Sets a schedule, and begins to count from 0.
pub fn set(rules: Vec<Rule>) {
    *schedule() = Schedule { rules, ..Schedule::EMPTY };
    ACTIVE.store(true, SeqCst);
}

/// Ends the schedule. What was counted is kept.
pub fn clear() {
    ACTIVE.store(false, SeqCst);
    schedule().rules.clear();
}

/// What was counted since [`set`], for the calls that were made.
pub fn counts() -> Vec<(Call, Count)> {
    let counts = schedule().counts;
    let rows = Call::ALL.iter().copied().zip(counts);
    rows.filter(|(_, count)| count.made > 0).collect()
}

fn schedule() -> MutexGuard<'static, Schedule> {
    SCHEDULE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next(call: Call) -> Option<Fault> {
    if ACTIVE.load(SeqCst) { schedule().next(call) } else { None }
}

/// The error of a fault. EAGAIN promises a report.
fn error(errno: i32) -> io::Error {
    if errno == libc::EAGAIN {
        OWED.fetch_add(1, SeqCst);
    }
    io::Error::from_raw_os_error(errno)
}

/// Makes a call, unless it is to fail.
pub(super) fn attempt<T>(call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match next(call) {
        Some(Fault::Errno(errno)) => Err(error(errno)),
        Some(Fault::After(errno)) => {
            // What is returned may own a file, which is closed here.
            let _ = make();
            Err(error(errno))
        }
        Some(Fault::Short(_)) | None => make(),
    }
}

/// The number that a call of `length` bytes, buffers or messages is asked for; an error if it is to fail.
pub(super) fn cut(call: Call, length: usize) -> io::Result<usize> {
    let limit = match next(call) {
        Some(Fault::Errno(errno) | Fault::After(errno)) => return Err(error(errno)),
        Some(Fault::Short(limit)) => limit,
        None if is_cut_by_mode(call) => 1,
        None => return Ok(length),
    };
    if limit < length {
        // The caller sees a short count, and waits for the kernel to report the file again.
        OWED.fetch_add(1, SeqCst);
    }
    Ok(length.min(limit))
}

/// True if the mode cuts this call to one byte. One call of 64 is not cut, so that tests that send megabytes come to an
/// end. A hash of the call's number chooses it. If every 64th call were chosen, and several connections took turns, it
/// could be a call of the same connection each time.
fn is_cut_by_mode(call: Call) -> bool {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let cut = if is_read(call) { modes().one_byte_reads } else { modes().one_byte_writes };
    let mixed = |number: u64| (number ^ number >> 7).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    cut && mixed(CALLS.fetch_add(1, SeqCst)) >> 58 != 63
}

fn is_read(call: Call) -> bool {
    matches!(call, Call::read | Call::recv | Call::recvfrom | Call::recvmmsg | Call::recvmsg)
}

/// The first buffer that is not empty, while every write is cut to one byte; otherwise all.
pub(super) fn first_buffer<'a, 'b>(slices: &'a [io::IoSlice<'b>]) -> &'a [io::IoSlice<'b>] {
    if modes().one_byte_writes { only_first(slices) } else { slices }
}

/// The first buffer that is not empty. The caller waits for a report before it writes the others.
fn only_first<'a, 'b>(slices: &'a [io::IoSlice<'b>]) -> &'a [io::IoSlice<'b>] {
    let Some(at) = slices.iter().position(|slice| !slice.is_empty()) else {
        return slices;
    };
    if slices[at + 1..].iter().any(|slice| !slice.is_empty()) {
        OWED.fetch_add(1, SeqCst);
    }
    &slices[at..=at]
}

// ---------------------------------------------------------------------------------------------- modes

/// What happens to every call of this process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// A read gets one byte, or one datagram; but for one of 64.
    pub one_byte_reads: bool,
    /// A write sends one byte, or one datagram; but for one of 64.
    pub one_byte_writes: bool,
    /// Sockets have the smallest buffers that the kernel allows.
    pub tiny_buffers: bool,
    /// Each third wait finds that every file is ready in every direction.
    pub spurious_wake_ups: bool,
}

impl Modes {
    /// The modes of a list of names, with commas between them. An error is a name that is unknown.
    pub fn parse(names: &str) -> Result<Self, String> {
        let mut modes = Self::default();
        for name in names.split(',').filter(|name| !name.is_empty()) {
            match name {
                "one-byte-reads" => modes.one_byte_reads = true,
                "one-byte-writes" => modes.one_byte_writes = true,
                "tiny-buffers" => modes.tiny_buffers = true,
                "spurious-wake-ups" => modes.spurious_wake_ups = true,
                _ => return Err(name.to_owned()),
            }
        }
        Ok(modes)
    }
}

/// The modes of this process, from `RLOOP_FAULTS`. [`check_modes`] has refused a name that is unknown.
pub fn modes() -> &'static Modes {
    static MODES: OnceLock<Modes> = OnceLock::new();
    MODES.get_or_init(|| check_modes().unwrap_or_default())
}

/// The modes that `RLOOP_FAULTS` names. An error is a name that is unknown.
pub fn check_modes() -> Result<Modes, String> {
    Modes::parse(&std::env::var("RLOOP_FAULTS").unwrap_or_default())
}

/// Gives a stream socket the smallest buffers, if that is the mode: for what it sends, and with `receives` for what it
/// receives. A socket must be told of the latter before its connection is made, because the peer may rely on it then.
pub(super) fn shrink(fd: RawFd, receives: bool) {
    if modes().tiny_buffers {
        let options = [Some(libc::SO_SNDBUF), receives.then_some(libc::SO_RCVBUF)];
        for option in options.into_iter().flatten() {
            let size: libc::c_int = 1;
            let length = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the option's value is a live int of the given size. An fd that is no socket is refused.
            unsafe {
                libc::setsockopt(fd, libc::SOL_SOCKET, option, std::ptr::from_ref(&size).cast(), length)
            };
        }
    }
}

// ---------------------------------------------------------------------------------------------- waits

/// Before a wait on an epoll instance: makes the kernel report every file anew that is ready, if that is owed.
pub(super) fn before_wait(epoll: BorrowedFd<'_>) {
    /// What was owed at the last wait, for each epoll instance.
    static PAID: Mutex<Option<HashMap<RawFd, u64>>> = Mutex::new(None);
    let owed = OWED.load(SeqCst);
    // In the child of a fork the mutex may be locked for ever. Then one report too many does no harm.
    let paid = PAID
        .try_lock()
        .ok()
        .and_then(|mut paid| paid.get_or_insert_default().insert(epoll.as_raw_fd(), owed));
    if paid != Some(owed) && owed > 0 {
        for mut file in watched(epoll) {
            // SAFETY: `event` is alive during the call. A file that was closed meanwhile is refused.
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, file.fd, &mut file.event) };
        }
    }
}

/// The events of a spurious wake-up, if this wait is to have one: every file is ready in every direction that is
/// watched.
pub(super) fn spurious(epoll: BorrowedFd<'_>) -> Option<impl Iterator<Item = libc::epoll_event>> {
    static WAITS: AtomicU64 = AtomicU64::new(0);
    let due = modes().spurious_wake_ups && WAITS.fetch_add(1, SeqCst) % 3 == 2;
    due.then(|| watched(epoll).into_iter().map(|file| file.event))
}

/// A file under watch.
struct Watched {
    fd: RawFd,
    event: libc::epoll_event,
}

/// What an epoll instance watches, as the kernel tells it: proc_pid_fdinfo(5).
fn watched(epoll: BorrowedFd<'_>) -> Vec<Watched> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", epoll.as_raw_fd()));
    text.unwrap_or_default().lines().filter_map(watched_file).collect()
}

/// The file of one line: `tfd:        4 events: 8000001d data:                4  pos:0 ino:a16848 sdev:9`.
fn watched_file(line: &str) -> Option<Watched> {
    let mut words = line.strip_prefix("tfd:")?.split_whitespace();
    let fd = words.next()?.parse().ok()?;
    let mut after = |name: &str| words.next().filter(|word| *word == name).and_then(|_| words.next());
    let events = u32::from_str_radix(after("events:")?, 16).ok()?;
    let data = u64::from_str_radix(after("data:")?, 16).ok()?;
    Some(Watched { fd, event: libc::epoll_event { events, u64: data } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schedule of a test: not the process's, because other tests make system calls at the same time.
    fn faults(rules: &[Rule], calls: &[Call]) -> (Vec<Option<Fault>>, Schedule) {
        let mut schedule = Schedule { rules: rules.to_vec(), ..Schedule::EMPTY };
        (calls.iter().map(|&call| schedule.next(call)).collect(), schedule)
    }

    #[test]
    fn a_rule_concerns_calls_of_its_name_from_the_first_on() {
        let fault = Fault::Errno(libc::EIO);
        let rule = Rule { call: Call::recv, first: 2, times: 2, fault };
        let calls = [Call::recv, Call::send, Call::recv, Call::send, Call::recv, Call::recv];
        let (found, schedule) = faults(&[rule], &calls);
        assert_eq!(found, [None, None, Some(fault), None, Some(fault), None]);
        assert_eq!(schedule.counts[Call::recv as usize], Count { made: 4, failed: 2 });
        assert_eq!(schedule.counts[Call::send as usize], Count { made: 2, failed: 0 });
        assert_eq!(schedule.counts[Call::poll as usize], Count::default());
    }

    #[test]
    fn the_first_rule_that_concerns_a_call_decides() {
        let rule = |first, times, fault| Rule { call: Call::send, first, times, fault };
        let rules = [rule(2, 1, Fault::Short(1)), rule(1, u64::MAX, Fault::Errno(libc::EPIPE))];
        let (found, _) = faults(&rules, &[Call::send; 3]);
        let lasting = Some(Fault::Errno(libc::EPIPE));
        assert_eq!(found, [lasting, Some(Fault::Short(1)), lasting]);
    }

    /// Names that nothing else in this test program calls, so that the process's schedule can be used.
    #[test]
    fn calls_fail_are_made_or_are_cut_as_scheduled() {
        let rules = [(Fault::Errno(libc::EIO), 1), (Fault::After(libc::EINTR), 2), (Fault::Short(3), 3)];
        let rule = |(fault, first)| Rule { call: Call::dup, first, times: 1, fault };
        set(rules.map(rule).to_vec());
        let made = std::cell::Cell::new(0);
        let mut call = || {
            attempt(Call::dup, || {
                made.set(made.get() + 1);
                Ok(made.get())
            })
        };
        assert_eq!((call().expect_err("fails").raw_os_error(), made.get()), (Some(libc::EIO), 0));
        assert_eq!((call().expect_err("fails").raw_os_error(), made.get()), (Some(libc::EINTR), 1));
        let owed = OWED.load(SeqCst);
        assert_eq!(cut(Call::dup, 10).expect("short"), 3);
        assert!(OWED.load(SeqCst) > owed);
        assert_eq!(cut(Call::dup, 10).expect("whole"), 10);
        let counted = counts().into_iter().find(|(call, _)| *call == Call::dup);
        assert_eq!(counted.map(|(_, count)| count), Some(Count { made: 4, failed: 3 }));
        clear();
        assert_eq!(call().expect("made"), 2);
    }

    #[test]
    fn a_report_is_owed_for_buffers_that_are_held_back() {
        let [empty, full] = [io::IoSlice::new(b""), io::IoSlice::new(b"x")];
        let owed = OWED.load(SeqCst);
        assert_eq!(only_first(&[empty, full, full]).len(), 1);
        assert!(OWED.load(SeqCst) > owed);
        assert_eq!(only_first(&[empty]).len(), 1);
    }

    #[test]
    fn modes_have_names() {
        let modes = Modes::parse("one-byte-reads,tiny-buffers").expect("known");
        assert!(modes.one_byte_reads && modes.tiny_buffers && !modes.one_byte_writes);
        assert_eq!(Modes::parse(""), Ok(Modes::default()));
        assert_eq!(Modes::parse("one-byte-reads,unknown"), Err("unknown".to_owned()));
    }

    #[test]
    fn what_is_owed_is_reported_once() {
        use std::os::fd::AsFd;
        let mut poll = mio::Poll::new().expect("poll");
        let (_near, far) = std::os::unix::net::UnixStream::pair().expect("pair");
        let source = std::os::fd::AsRawFd::as_raw_fd(&far);
        let mut file = mio::unix::SourceFd(&source);
        poll.registry().register(&mut file, mio::Token(7), mio::Interest::WRITABLE).expect("registered");
        let mut events = mio::Events::with_capacity(8);
        let mut found = |poll: &mut mio::Poll| {
            // SAFETY: the poll owns the fd and outlives the call.
            let epoll = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(poll)) };
            before_wait(epoll.as_fd());
            poll.poll(&mut events, Some(std::time::Duration::ZERO)).expect("poll");
            events.iter().map(|event| event.token().0).collect::<Vec<_>>()
        };
        assert_eq!(found(&mut poll), [7], "the edge");
        assert_eq!(error(libc::EAGAIN).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(found(&mut poll), [7], "owed");
    }

    #[test]
    fn lines_of_fdinfo() {
        let line = "tfd:        4 events: 8000001d data:                a  pos:0 ino:a16848 sdev:9";
        let file = watched_file(line).expect("a file");
        assert_eq!((file.fd, { file.event.events }, { file.event.u64 }), (4, 0x8000_001d, 10));
        assert!(watched_file("flags:\t02000002").is_none());
    }
}
