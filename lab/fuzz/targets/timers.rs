//! The timer heap beside a `BTreeMap` from (deadline, order of arrival) to timers.
#![no_main]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use rloop::reactor::timers::TimerHeap;
use rloop_fuzz::Input;

/// A timer of the model: its number, and whether it lives.
type Timer = Rc<(u32, Cell<bool>)>;

fn is_live(timer: &Timer) -> bool {
    timer.1.get()
}

struct Both {
    heap: TimerHeap<Timer>,
    model: BTreeMap<(u64, u32), Timer>,
    garbage: Vec<Timer>,
}

impl Both {
    /// What the heap has put into the garbage was cancelled, and is in the model no more.
    fn throw_away(&mut self) {
        for dead in self.garbage.drain(..) {
            assert!(!is_live(&dead));
            let before = self.model.len();
            self.model.retain(|_, timer| timer.0 != dead.0);
            assert_eq!(self.model.len() + 1, before, "each is thrown away once");
        }
    }

    fn first_live(&self) -> Option<(&(u64, u32), &Timer)> {
        self.model.iter().find(|(_, timer)| is_live(timer))
    }

    fn nth(&self, n: usize) -> Option<((u64, u32), Timer)> {
        let at = n.checked_rem(self.model.len())?;
        self.model.iter().nth(at).map(|(key, timer)| (*key, timer.clone()))
    }

    fn call(&mut self, call: u8, number: u32, input: &mut Input<'_>) {
        match call % 8 {
            0..=2 => {
                let deadline =
                    if call >= 128 { u64::MAX - input.small() as u64 } else { input.small() as u64 };
                let timer = Rc::new((number, Cell::new(true)));
                assert!(self.heap.push(deadline, timer.clone()).is_ok());
                self.model.insert((deadline, number), timer);
            }
            3 => {
                // Cancel one, as a handle does: its owner counts it, once.
                if let Some((_, timer)) = self.nth(input.small())
                    && timer.1.replace(false)
                {
                    self.heap.dead().add();
                    if self.heap.is_mostly_dead() {
                        self.heap.compact(is_live, &mut self.garbage);
                        self.throw_away();
                        assert!(self.model.values().all(is_live));
                    }
                }
            }
            4 => {
                let next = self.heap.next_deadline(is_live, &mut self.garbage);
                assert_eq!(next, self.first_live().map(|(key, _)| key.0));
                self.throw_away();
            }
            5 => {
                let now = input.small() as u64;
                let due = self.heap.pop_due(now, is_live, &mut self.garbage);
                let expected = self.first_live().filter(|(key, _)| key.0 <= now).map(|(key, _)| *key);
                assert_eq!(due.map(|(_, timer)| timer.0), expected.map(|key| key.1));
                expected.map(|key| self.model.remove(&key));
                self.throw_away();
            }
            6 => {
                let wanted = self.nth(input.small());
                let number = wanted.as_ref().map_or(u32::MAX, |(key, _)| key.1);
                let removed = self.heap.remove(|timer| timer.0 == number, is_live);
                assert_eq!(removed.map(|timer| timer.0), wanted.map(|(key, _)| key.1));
                self.model.retain(|key, _| key.1 != number);
            }
            _ => self.heap.shrink(),
        }
    }

    fn check(&self) {
        assert_eq!(self.heap.is_empty(), self.model.is_empty());
        assert_eq!(self.heap.live(), self.model.values().filter(|timer| is_live(timer)).count());
        assert_eq!(self.heap.iter().count(), self.model.len());
        assert_eq!(self.heap.peek().map(|timer| timer.0), self.model.keys().next().map(|key| key.1));
        let sorted: Vec<u32> = self.heap.sorted().iter().map(|timer| timer.0).collect();
        assert_eq!(sorted, self.model.keys().map(|key| key.1).collect::<Vec<_>>());
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut both = Both { heap: TimerHeap::new(), model: BTreeMap::new(), garbage: Vec::new() };
    let mut number = 0;
    while let Some(call) = input.byte() {
        both.call(call, number, &mut input);
        both.check();
        number += 1;
    }
    assert_eq!(both.heap.drain().len(), both.model.len());
});
