//! Nodes that cheat on demand: who did it is named, nobody else is, and the evidence verifies without any node.

mod moving;
mod proven;
mod silent;
