//! The outbox beside a plain model: a `Vec<u8>` of what is queued, a kernel with so much room, and a clock. Every byte
//! that was accepted is sent once and in order; pauses and resumes come in turns; nothing waits for nobody.
#![no_main]

use std::cell::Cell;
use std::io::{self, IoSlice};

use libfuzzer_sys::fuzz_target;
use rloop::reactor::moment::Moment;
use rloop::transports::flow::{Flow, Queue, Signal};
use rloop::transports::outbox::{Follow, Next, Outbox};
use rloop::transports::write_queue::WriteQueue;
use rloop_fuzz::Input;

/// A transport of the simplest kind, its kernel, and what is to be true of both.
struct Transport {
    outbox: Outbox<WriteQueue<Vec<u8>>>,
    /// How many bytes the kernel still takes.
    room: usize,
    sent: Vec<u8>,
    accepted: Vec<u8>,
    paused: bool,
    /// The loop is to call `flush`.
    will_flush: bool,
    moment: Option<Moment>,
    turn: u32,
    clock: Cell<u64>,
}

impl Transport {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(WriteQueue::default(), Flow::default(), 1),
            room: 100,
            sent: Vec::new(),
            accepted: Vec::new(),
            paused: false,
            will_flush: false,
            moment: Some(Moment::start_of(1).next()),
            turn: 1,
            clock: Cell::new(1_000_000_000),
        }
    }

    fn tell(&mut self, signal: Option<Signal>) {
        let queued = self.accepted.len() - self.sent.len();
        let (low, high) = self.outbox.flow.limits();
        match signal {
            Some(Signal::Pause) => {
                assert!(!self.paused && queued > high);
                self.paused = true;
            }
            Some(Signal::Resume) => {
                assert!(self.paused && queued <= low);
                self.paused = false;
            }
            None => {}
        }
        assert_eq!(self.outbox.flow.is_paused(), self.paused);
    }

    fn send(&mut self, by_record: bool) {
        let (room, sent) = (&mut self.room, &mut self.sent);
        let write = |slices: &[IoSlice<'_>]| {
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            assert!(offered > 0, "no call sends nothing");
            let count = offered.min(*room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            *room -= count;
            sent.extend(slices.iter().flat_map(|slice| slice.iter().copied()).take(count));
            Ok(count)
        };
        self.outbox.send(by_record, write, || false, || self.clock.get()).expect("no error");
        assert!(self.outbox.queue.is_empty() || self.outbox.blocked, "what the kernel takes has left");
        let signal = self.outbox.settled(true);
        self.tell(signal);
    }

    fn write(&mut self, data: &[u8], may_wait: bool) {
        let next = self.outbox.next(data.len(), may_wait, self.moment, || self.clock.get());
        assert_eq!(next == Next::Wait, self.outbox.blocked);
        assert!(may_wait || !matches!(next, Next::Keep(_)));
        assert!(self.moment.is_some() || !matches!(next, Next::Keep(_)), "nothing is kept between two turns");
        self.outbox.queue.push(data.to_vec()).expect("memory");
        self.accepted.extend(data);
        match self.outbox.queued(next) {
            Follow::Send => self.send(false),
            Follow::Flush(_) => {
                assert!(!self.will_flush, "the loop is asked once");
                self.will_flush = true;
            }
            Follow::Tell(signal) => self.tell(signal),
        }
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.will_flush) {
            self.outbox.deferred = false;
            self.send(false);
        }
    }

    fn call(&mut self, call: u8, input: &mut Input<'_>) {
        match call % 10 {
            0..=2 => {
                let count = 1 + input.small();
                let data: Vec<u8> = (0..count).map(|n| (self.accepted.len() + n) as u8).collect();
                self.write(&data, !call.is_multiple_of(10));
            }
            3 => self.write(&vec![7; 200 * (1 + input.small())], true),
            4 => {
                // The kernel has room again, and reports it if it had none.
                self.room += input.small() * 300;
                if self.outbox.blocked && self.room > 0 {
                    self.outbox.blocked = false;
                    self.send(call >= 128);
                }
            }
            5 => {
                self.turn += 1;
                self.flush();
                self.moment = (call < 200).then(|| Moment::start_of(self.turn).next());
            }
            6 => self.moment = self.moment.map(Moment::next),
            7 => {
                if self.outbox.asked() {
                    self.send(false);
                }
                assert!(!self.outbox.has_sendable());
            }
            8 => {
                let (high, low) = (input.small() as i64 * 100 - 100, input.small() as i64 * 50 - 50);
                let result = self.outbox.flow.set_limits(Some(high), Some(low));
                assert_eq!(result.is_ok(), high >= low && low >= 0);
                let signal = self.outbox.grown();
                self.tell(signal);
            }
            _ => self.clock.set(self.clock.get() + (input.small() as u64).pow(3)),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut transport = Transport::new();
    while let Some(call) = input.byte() {
        transport.call(call, &mut input);
        let queued = transport.accepted.len() - transport.sent.len();
        assert_eq!(transport.outbox.queue.size(), queued);
        assert!(transport.accepted.starts_with(&transport.sent));
        assert_eq!(transport.outbox.deferred, transport.will_flush);
        // Whatever is queued has somebody who will send it: the kernel's report, or the loop.
        assert!(queued == 0 || transport.outbox.blocked || transport.will_flush);
    }
    transport.flush();
    transport.room = usize::MAX;
    transport.outbox.blocked = false;
    transport.send(false);
    assert_eq!(transport.sent, transport.accepted);
    assert!(!transport.paused);
});
