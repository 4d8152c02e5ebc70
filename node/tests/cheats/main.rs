//! Nodes that cheat on demand, in federations of real processes: who did it is named, nobody else is, and the evidence
//! verifies without any node.

#[path = "../federation/net.rs"]
#[allow(unused_imports)]
mod net;

mod proven;
mod silent;
