//! What a node owes to its disk: that nothing it says is ahead of what is synced, and that it holds when the disk fails,
//! is full, or is set back.

mod cluster;
mod full_disk;
mod restore;
mod statements;
mod syncs;
mod tracer;
mod twins;
