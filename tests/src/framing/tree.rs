//! Claims as trees of CBOR, so that any part of one can stand in any place of another.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::sim::rng::Rng;

/// An item of the encoding, without its meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Number(u64),
    Bytes(Vec<u8>),
    Text(String),
    Flag(bool),
    None,
    List(Vec<Tree>),
}

impl Tree {
    /// Of canonical bytes.
    pub(super) fn of(bytes: &[u8]) -> Tree {
        read(&mut Decoder::new(bytes)).expect("what was encoded can be read")
    }

    /// The bytes of it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Encoder::new(Vec::new());
        self.write(&mut bytes).expect("memory takes everything");
        bytes.into_writer()
    }

    fn write(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        match self {
            Tree::Number(number) => to.u64(*number)?.ok(),
            Tree::Bytes(bytes) => to.bytes(bytes)?.ok(),
            Tree::Text(text) => to.str(text)?.ok(),
            Tree::Flag(flag) => to.bool(*flag)?.ok(),
            Tree::None => to.null()?.ok(),
            Tree::List(items) => {
                to.array(items.len() as u64)?;
                items.iter().try_for_each(|item| item.write(to))
            }
        }
    }

    /// How many items it has, itself among them.
    fn len(&self) -> usize {
        match self {
            Tree::List(items) => 1 + items.iter().map(Tree::len).sum::<usize>(),
            _ => 1,
        }
    }

    fn at(&self, place: usize) -> &Tree {
        let mut place = place;
        let mut tree = self;
        'down: while place > 0 {
            let Tree::List(items) = tree else { break };
            place -= 1;
            for item in items {
                if place < item.len() {
                    tree = item;
                    continue 'down;
                }
                place -= item.len();
            }
        }
        tree
    }

    fn at_mut(&mut self, place: usize) -> &mut Tree {
        if place == 0 {
            return self;
        }
        let Tree::List(items) = self else { return self };
        let mut place = place - 1;
        let mut found = 0;
        for (at, item) in items.iter().enumerate() {
            found = at;
            if place < item.len() {
                break;
            }
            place -= item.len();
        }
        items[found].at_mut(place)
    }

    /// Whether one may well stand where the other one does.
    fn is_like(&self, other: &Tree) -> bool {
        match (self, other) {
            (Tree::Number(_), Tree::Number(_)) | (Tree::Text(_), Tree::Text(_)) | (Tree::Flag(_), Tree::Flag(_)) => {
                true
            }
            (Tree::Bytes(one), Tree::Bytes(other)) => one.len() == other.len(),
            (Tree::List(one), Tree::List(other)) => {
                // A list of equals may be longer; what has fields has as many.
                let alike = |(one, other): (&Tree, &Tree)| std::mem::discriminant(one) == std::mem::discriminant(other);
                one.len() == other.len() && one.iter().zip(other).all(alike)
            }
            _ => false,
        }
    }

    /// Puts a part of `other` in the place of a part that looks like it. Returns whether there is such a pair.
    pub(super) fn cross(&mut self, other: &Tree, rng: &mut Rng) -> bool {
        for _ in 0..8 {
            let part = other.at(rng.index(other.len()));
            let from = rng.index(self.len());
            // The parts of two claims of one kind stand in the same places.
            let places = (0..self.len()).cycle().skip(from).take(self.len());
            let same = places.clone().find(|place| self.at(*place).is_like(part) && self.at(*place) != part);
            if let Some(place) = same {
                *self.at_mut(place) = part.clone();
                return true;
            }
        }
        false
    }

    /// Changes one item.
    pub(super) fn mutate(&mut self, rng: &mut Rng) {
        let place = rng.index(self.len());
        match self.at_mut(place) {
            Tree::Number(number) => {
                *number = match rng.below(6) {
                    0 | 1 => number.wrapping_add(1),
                    2 | 3 => number.wrapping_sub(1),
                    4 => rng.below(number.saturating_add(2)),
                    _ => u64::MAX >> rng.below(64),
                }
            }
            Tree::Bytes(bytes) if !bytes.is_empty() => {
                let at = rng.index(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            Tree::Flag(flag) => *flag = !*flag,
            Tree::List(items) if !items.is_empty() => {
                let (one, other) = (rng.index(items.len()), rng.index(items.len()));
                match rng.below(4) {
                    0 => drop(items.remove(one)),
                    1 => items.insert(other, items[one].clone()),
                    2 => items[one] = items[other].clone(),
                    _ => items.swap(one, other),
                }
            }
            other => *other = Tree::None,
        }
    }
}

fn read(from: &mut Decoder<'_>) -> Result<Tree, minicbor::decode::Error> {
    Ok(match from.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Tree::Number(from.u64()?),
        Type::Bytes => Tree::Bytes(from.bytes()?.to_vec()),
        Type::String => Tree::Text(from.str()?.to_owned()),
        Type::Bool => Tree::Flag(from.bool()?),
        Type::Null => {
            from.null()?;
            Tree::None
        }
        Type::Array => {
            let count = from.array()?.unwrap_or(0);
            Tree::List((0..count).map(|_| read(from)).collect::<Result<_, _>>()?)
        }
        other => return Err(minicbor::decode::Error::type_mismatch(other)),
    })
}
