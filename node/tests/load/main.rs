//! Peers that mean no good against nodes of real processes, beside honest senders: what they cost the others, measured in
//! alternation, and what they make a node hold.
//!
//! In a binary of its own, one test at a time, because each compares throughput.

mod attacks;
mod honest;
mod net;
mod origins;
mod strangers;
mod turnover;

/// A number from the environment, or this small one.
fn scale(variable: &str, small: usize, full: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => {
            println!("in full: {variable}={full} cargo test --release -p postroad --test load -- --nocapture");
            small
        }
    }
}
