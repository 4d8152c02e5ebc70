//! The shape that all trees here share: RFC 6962 section 2.1.
//!
//! That definition splits n leaves at the largest power of two below n. Built
//! from the bottom, the same tree pairs neighbours level by level and hands a
//! last one without a neighbour up unchanged. So a node of level k covers the
//! leaves `i << k` and up, and which siblings a leaf has, and on which side,
//! follows from (index, size) alone.

/// All levels of a tree of `T`, leaves first.
#[derive(Debug, Clone)]
pub(super) struct Levels<T>(Vec<Vec<T>>);

impl<T: Copy> Levels<T> {
    /// Builds the levels over `leaves`; `None` if `join` refuses a pair.
    pub(super) fn new(leaves: Vec<T>, join: impl Fn(&T, &T) -> Option<T>) -> Option<Self> {
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let level = pair_up(below, &join)?;
            levels.push(level);
        }
        Some(Levels(levels))
    }

    /// Number of leaves.
    pub(super) fn len(&self) -> usize {
        self.0[0].len()
    }

    /// The one node on top; `None` for the empty tree.
    pub(super) fn top(&self) -> Option<T> {
        self.0.last().and_then(|level| level.first()).copied()
    }

    /// The siblings on the way up from leaf `index`. Panics if there is no such leaf: positions
    /// here come from the builder of the tree, not from strangers.
    pub(super) fn siblings(&self, index: usize) -> Vec<T> {
        assert!(index < self.len(), "leaf {index} of {}", self.len());
        let levels = self.0.iter().enumerate();
        levels.filter_map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect()
    }
}

/// The level above `below`.
pub(super) fn pair_up<T: Copy>(below: &[T], join: impl Fn(&T, &T) -> Option<T>) -> Option<Vec<T>> {
    below
        .chunks(2)
        .map(|pair| match pair {
            [left, right] => join(left, right),
            lone => lone.first().copied(),
        })
        .collect()
}

/// On which side of the path a sibling stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The sibling covers the leaves before.
    Left,
    /// The sibling covers the leaves after.
    Right,
}

/// The sides of the siblings on the way up from a leaf: at most 64.
#[derive(Debug)]
pub(super) struct Sides {
    index: u64,
    last: u64,
}

impl Sides {
    /// `None` if a tree of `size` leaves has no leaf `index`.
    pub(super) fn new(index: u64, size: u64) -> Option<Self> {
        let last = size.checked_sub(1)?;
        (index <= last).then_some(Sides { index, last })
    }
}

impl Iterator for Sides {
    type Item = Side;

    fn next(&mut self) -> Option<Side> {
        while self.last > 0 {
            let (index, last) = (self.index, self.last);
            self.index >>= 1;
            self.last >>= 1;
            if index & 1 == 1 {
                return Some(Side::Left);
            }
            if index < last {
                return Some(Side::Right);
            }
        }
        None
    }
}

/// Folds `siblings` into `leaf`; `None` unless there are exactly as many as (index, size) asks
/// for, and `join` (left, right) accepts each pair.
pub(super) fn climb<T: Copy>(
    leaf: T,
    index: u64,
    size: u64,
    siblings: &[T],
    mut join: impl FnMut(Side, &T, &T) -> Option<T>,
) -> Option<T> {
    let mut sides = Sides::new(index, size)?;
    let mut node = leaf;
    for sibling in siblings {
        node = match sides.next()? {
            Side::Left => join(Side::Left, sibling, &node)?,
            Side::Right => join(Side::Right, &node, sibling)?,
        };
    }
    sides.next().is_none().then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, taken literally: sides of the siblings from the leaf up.
    fn sides_by_definition(index: u64, size: u64) -> Vec<Side> {
        if size <= 1 {
            return Vec::new();
        }
        let split = size.next_power_of_two() / 2;
        let (mut sides, side) = if index < split {
            (sides_by_definition(index, split), Side::Right)
        } else {
            (sides_by_definition(index - split, size - split), Side::Left)
        };
        sides.push(side);
        sides
    }

    #[test]
    fn sides_are_those_of_the_definition() {
        for size in 1..=130 {
            for index in 0..size {
                let sides: Vec<Side> = Sides::new(index, size).unwrap().collect();
                assert_eq!(sides, sides_by_definition(index, size), "{index} of {size}");
            }
            assert!(Sides::new(size, size).is_none());
        }
        assert!(Sides::new(0, 0).is_none());
    }

    #[test]
    fn the_largest_size_ends() {
        assert_eq!(Sides::new(0, u64::MAX).unwrap().count(), 64);
        assert_eq!(Sides::new(u64::MAX - 1, u64::MAX).unwrap().count(), 63);
    }
}
