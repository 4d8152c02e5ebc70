//! A shelf under threads: whoever comes while a value is being loaded waits for it, and nobody loads it twice.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use postroad_engine::shelf::Shelf;

const READERS: usize = 8;

#[test]
fn those_who_come_together_load_once() {
    let shelf = Shelf::<u64, u64>::new(100);
    let (loads, start) = (AtomicU64::new(0), Barrier::new(READERS));
    let read = || {
        start.wait();
        shelf.get(7, || {
            loads.fetch_add(1, Ordering::SeqCst);
            Ok::<_, ()>((70, 1))
        })
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        for reader in readers {
            assert_eq!(reader.join().expect("no panic").as_deref(), Ok(&70));
        }
    });
    assert_eq!(loads.into_inner(), 1);
}
