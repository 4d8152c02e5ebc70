//! Federations of real processes on loopback: sockets, disks, signatures, signals.

mod challenges;
#[cfg(feature = "cheat")]
mod cheats;
mod deputies;
mod devices;
mod durability;
mod evidence;
mod explain;
mod failures;
mod interop;
mod kills;
mod mail;
mod moves;
mod net;
mod policy;
mod retention;
mod retire;
#[cfg(feature = "sled")]
mod sled;
mod strangers;
mod tools;
mod watch_client;
mod watching;
