//! The table of tokens beside a `HashMap`: a token finds its own value, and nothing after that was removed.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use rloop::reactor::token::{Slots, Token};
use rloop_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut slots: Slots<u32> = Slots::new();
    let mut model: HashMap<Token, u32> = HashMap::new();
    // Every token that was given out, whether it still finds something or not.
    let mut given: Vec<Token> = Vec::new();
    let mut number = 0;
    while let Some(call) = input.byte() {
        number += 1;
        let chosen = input.small().checked_rem(given.len()).map(|at| given[at]);
        // A token that the kernel brings, which may be any number.
        let made_up = Token::from_mio(any_token(&mut input, call));
        match call % 6 {
            0 | 1 => {
                let token = slots.insert(number);
                assert_eq!(Token::from_mio(token.to_mio()), Some(token));
                assert!(!given.contains(&token), "no token is given out twice");
                assert_eq!(model.insert(token, number), None);
                given.push(token);
            }
            2 => {
                let token = chosen.or(made_up);
                assert_eq!(
                    token.and_then(|token| slots.remove(token)),
                    token.and_then(|token| model.remove(&token))
                );
            }
            3 => {
                if let Some(value) = chosen.and_then(|token| slots.get_mut(token)) {
                    *value += 1_000_000;
                    chosen.map(|token| model.entry(token).and_modify(|value| *value += 1_000_000));
                }
            }
            4 => {
                let found = made_up.and_then(|token| slots.get(token));
                assert_eq!(found, made_up.and_then(|token| model.get(&token)));
            }
            _ if number % 16 == 0 => {
                let mut drained = slots.drain();
                let mut expected: Vec<u32> = model.drain().map(|(_, value)| value).collect();
                drained.sort_unstable();
                expected.sort_unstable();
                assert_eq!(drained, expected);
            }
            _ => {}
        }
        for token in &given {
            assert_eq!(slots.get(*token), model.get(token));
        }
        assert_eq!(slots.iter().count(), model.len());
        assert!(slots.tokens().all(|(token, value)| model.get(&token) == Some(value)));
    }
});

/// Any number as mio carries it: a small index, and any generation.
fn any_token(input: &mut Input<'_>, call: u8) -> mio::Token {
    let generation = if call >= 128 { input.number() as usize } else { usize::from(call >> 3) };
    mio::Token(generation << 32 | usize::from(call & 7))
}
