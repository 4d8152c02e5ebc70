//! What was just read from disk and decoded, for all who read it next.
//!
//! A cut or a slice has an entry for many mailboxes, and all of their readers come for it at about the same time. So it
//! is decoded once, by the first who asks, while the others wait for that one; and it is kept once, within bounds that
//! do not grow with the number of readers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values kept, at most.
const MAX_VALUES: usize = 64;

/// A bounded collection of values that are costly to load. Values in use live on when they are dropped here.
#[derive(Debug)]
pub struct Shelf<K, V> {
    kept: Mutex<Kept<K, V>>,
    max_bytes: u64,
}

/// One value, or the place where it will be: whoever holds the lock loads it.
type Slot<V> = Arc<Mutex<Option<Arc<V>>>>;

#[derive(Debug)]
struct Kept<K, V> {
    slots: BTreeMap<K, Slot<V>>,
    /// In the order in which they came, with what they weigh.
    order: VecDeque<(K, u64)>,
    bytes: u64,
}

impl<K: Ord + Copy, V> Shelf<K, V> {
    /// An empty shelf for values of so many bytes together.
    pub fn new(max_bytes: u64) -> Shelf<K, V> {
        let kept = Kept { slots: BTreeMap::new(), order: VecDeque::new(), bytes: 0 };
        Shelf { kept: Mutex::new(kept), max_bytes }
    }

    /// The value of `key`, from here or from `load`, which also says how many bytes it weighs. Only one caller at a
    /// time loads a value; if it fails, the next one tries.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn get<E>(&self, key: K, load: impl FnOnce() -> Result<(V, u64), E>) -> Result<Arc<V>, E> {
        let slot = Arc::clone(hold(&self.kept).slots.entry(key).or_default());
        let mut place = hold(&slot);
        if let Some(value) = &*place {
            return Ok(Arc::clone(value));
        }
        let loaded = load();
        let mut kept = hold(&self.kept);
        let (value, bytes) = match loaded {
            Ok((value, bytes)) => (Arc::new(value), bytes),
            Err(error) => {
                kept.slots.remove(&key);
                return Err(error);
            }
        };
        *place = Some(Arc::clone(&value));
        kept.keep(key, &slot, bytes, self.max_bytes);
        Ok(value)
    }
}

impl<K: Ord + Copy, V> Kept<K, V> {
    fn keep(&mut self, key: K, slot: &Slot<V>, bytes: u64, max_bytes: u64) {
        // Another caller that failed may have taken the slot away.
        if !self.slots.get(&key).is_some_and(|known| Arc::ptr_eq(known, slot)) {
            return;
        }
        self.order.push_back((key, bytes));
        self.bytes += bytes;
        while self.order.len() > MAX_VALUES || self.bytes > max_bytes {
            let Some((oldest, bytes)) = self.order.pop_front() else { return };
            self.slots.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A loader that panicked has left its place empty, which is a state like any other.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(shelf: &Shelf<u64, u64>, key: u64, bytes: u64) -> bool {
        let mut loaded = false;
        let value = shelf.get(key, || {
            loaded = true;
            Ok::<_, ()>((key * 10, bytes))
        });
        assert_eq!(value.as_deref(), Ok(&(key * 10)));
        loaded
    }

    #[test]
    fn a_value_is_loaded_once_and_the_oldest_goes_first() {
        let shelf = Shelf::new(100);
        assert!(loads(&shelf, 1, 40));
        assert!(loads(&shelf, 2, 40));
        assert!(!loads(&shelf, 1, 40));
        // Only two of these fit.
        assert!(loads(&shelf, 3, 40));
        assert!(!loads(&shelf, 2, 40));
        assert!(loads(&shelf, 1, 40));
        // Larger than all room: given, and not kept.
        assert!(loads(&shelf, 4, 101));
        assert!(loads(&shelf, 4, 101));
    }

    #[test]
    fn a_failure_is_not_kept() {
        let shelf = Shelf::<u64, u64>::new(100);
        assert_eq!(shelf.get(1, || Err("gone")), Err("gone"));
        assert!(loads(&shelf, 1, 1));
        assert!(!loads(&shelf, 1, 1));
    }
}
