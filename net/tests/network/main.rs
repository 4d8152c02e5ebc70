//! Networks over real sockets on 127.0.0.1: connections and streams.

#[macro_use]
mod common;
mod connect;
mod streams;
