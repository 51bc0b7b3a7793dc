//! The ready queue and the inbox beside a `VecDeque` for each: no entry is lost, doubled, or moved past another one.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use rloop::reactor::ready::{Inbox, ReadyQueue, Refused};
use rloop_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (mut ready, inbox) = (ReadyQueue::new(), Inbox::new());
    let (mut model, mut sent, mut closed) = (VecDeque::new(), VecDeque::new(), false);
    let mut number: u32 = 0;
    while let Some(call) = input.byte() {
        number += 1;
        match call % 12 {
            0 | 1 => {
                assert_eq!(ready.push(number), Ok(()));
                model.push_back(number);
            }
            2 => {
                assert_eq!(ready.push_front(number), Ok(()));
                model.push_front(number);
            }
            3 | 4 => {
                let result = inbox.send(number, || 0);
                assert_eq!(result, if closed { Err(Refused::Closed(number)) } else { Ok(()) });
                if !closed {
                    sent.push_back(number);
                }
            }
            5 => {
                ready.receive(&inbox);
                model.append(&mut sent);
            }
            6 => assert_eq!(ready.pop(), model.pop_front()),
            7 => assert_eq!(ready.pop_back(), model.pop_back()),
            8 => {
                let wanted = input.small().checked_rem(model.len()).and_then(|at| model.remove(at));
                assert_eq!(ready.remove(|entry| Some(*entry) == wanted), wanted);
            }
            9 => {
                assert!(ready.reserve(input.small()).is_ok());
                ready.shrink();
            }
            10 if input.small() == 0 => assert_eq!(ready.drain(), std::mem::take(&mut model)),
            11 if input.small() == 0 => {
                assert_eq!(inbox.close(), std::mem::take(&mut sent));
                closed = true;
            }
            _ => {
                let mut seen = VecDeque::new();
                let stop = inbox.try_visit(|entry| {
                    seen.push_back(*entry);
                    if seen.len() < 3 { Ok(()) } else { Err(()) }
                });
                assert_eq!(stop.is_err(), sent.len() >= 3);
                assert!(seen.iter().eq(sent.iter().take(3)));
            }
        }
        assert!(ready.iter().eq(&model));
        assert_eq!((ready.len(), ready.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(inbox.is_empty(), sent.is_empty());
    }
});
