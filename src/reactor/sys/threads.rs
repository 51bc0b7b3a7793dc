//! What the kernel knows of the threads of this process: their numbers, and how they are scheduled.

/// What the kernel says of a thread. All zeroes where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// For how many nanoseconds it has run.
    pub ran: u64,
    /// For how many nanoseconds it has waited for a processor.
    pub waited: u64,
    /// True if it is ready to run, or runs.
    pub is_ready: bool,
}

/// The kernel's number of the current thread; 0 where it has none that is of use here.
pub fn thread_number() -> u32 {
    #[cfg(target_os = "linux")]
    // SAFETY: the call takes nothing and cannot fail.
    return unsafe { libc::gettid() } as u32;
    #[cfg(not(target_os = "linux"))]
    0
}

/// What the kernel says of a thread of this process, by its number: how it was scheduled so far, and whether it is
/// ready to run. All zeroes where the kernel does not tell.
pub fn scheduling_of(thread: u32) -> Scheduling {
    let folder = format!("/proc/self/task/{thread}");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
    // proc(5): the time on a processor, and the time in a queue for one, in nanoseconds.
    let times = read("schedstat").unwrap_or_default();
    let mut times = times.split_ascii_whitespace().map(|number| number.parse().unwrap_or(0));
    let (Some(ran), Some(waited)) = (times.next(), times.next()) else {
        return Scheduling::default();
    };
    // The state follows the name of the thread, which stands in brackets and may contain some.
    let state = read("stat").and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('R')));
    Scheduling { ran, waited, is_ready: state.unwrap_or(false) }
}

/// Blocks every signal on the current thread, so that the program's other threads get them.
pub fn block_signals() {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigfillset` initialises the set, and the second call only reads it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}
