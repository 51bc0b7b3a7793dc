//! The write queue beside a `Vec<u8>`: whatever is pushed, sent, taken out and put back, the same bytes are left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rloop::transports::flow::Queue;
use rloop::transports::write_queue::WriteQueue;
use rloop_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut queue: WriteQueue<Vec<u8>> = WriteQueue::default();
    let mut model: Vec<u8> = Vec::new();
    while let Some(call) = input.byte() {
        match call % 9 {
            0 | 1 => {
                let count = input.small() % 40;
                let chunk = input.take(count).to_vec();
                model.extend(&chunk);
                queue.push(chunk).expect("memory");
            }
            2 => {
                let chunks: Vec<Vec<u8>> = (0..input.small() % 80).map(|n| vec![n as u8; n % 3]).collect();
                model.extend(chunks.iter().flatten());
                queue.push_all(chunks).expect("memory");
            }
            3 => {
                // What the kernel takes is a part of what it was given.
                let share = input.small();
                let count = queue.with_front(|slices| {
                    let front: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    assert!(model.starts_with(&front));
                    assert!(!front.is_empty() || model.is_empty());
                    front.len() * share / 255
                });
                queue.advance(count);
                model.drain(..count);
            }
            4 => {
                let front = queue.front_len();
                match queue.take_front() {
                    Some((chunk, sent)) => {
                        assert_eq!(chunk.len() - sent, front);
                        assert_eq!(model.drain(..front).as_slice(), &chunk[sent..]);
                        if input.small().is_multiple_of(2) {
                            // What was left of it goes back, as a TLS layer does with what was not encrypted.
                            model.splice(..0, chunk[sent..].iter().copied());
                            queue.put_back(chunk[sent..].to_vec());
                        }
                    }
                    None => assert!(model.is_empty()),
                }
            }
            5 | 6 => {
                let limit = input.small();
                let gathered = queue.gather(limit).expect("memory");
                assert_eq!(gathered.len(), limit.min(model.len()));
                assert_eq!(model.drain(..gathered.len()).as_slice(), gathered);
            }
            7 => {
                let copies = queue.copies();
                assert!(copies.iter().all(|copy| !copy.is_empty()));
                assert_eq!(copies.concat(), model);
            }
            _ if input.small() == 0 => {
                queue.take();
                model.clear();
            }
            _ => {}
        }
        assert_eq!(queue.size(), model.len());
        assert_eq!(queue.is_empty(), model.is_empty());
        assert_eq!(queue.front_len() == 0, model.is_empty());
    }
    assert_eq!(queue.copies().concat(), model);
});
