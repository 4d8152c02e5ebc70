//! The protocol's behaviour, module by module: what holds, what is refused, and the bytes that may never change.

#[path = "../common/mod.rs"]
mod common;

mod apply;
mod challenges;
mod codec;
mod custody;
mod directory;
mod domains;
mod evidence;
mod explanation;
mod genesis;
mod golden;
mod mail;
mod memory;
mod moving;
mod proofs;
mod refused;
mod signatures;
