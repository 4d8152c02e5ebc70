//! What touches the world: the driver of a node, its configuration, and the `postroad` command.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `driver` | the engine's connection to libp2p, disk and clocks |
//! | `metrics`, `http` | what a node counts, whether it is healthy, and where operators read it |
//! | `config` | `postroad.toml`, its defaults and the layout of a node's directory |
//! | `backup` | taking, checking and restoring backups |
//! | `fsck` | recomputes what a store holds, from its rows alone |
//! | `cli` | the command: one module per subcommand |

pub mod backup;
pub mod cli;
pub mod config;
pub mod driver;
pub mod fsck;
mod http;
mod metrics;

pub use driver::{NodeError, run_node};
