//! What touches the world: the driver of a node, its configuration, and the `postroad` command.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `config` | `postroad.toml`, its defaults and the layout of a node's directory |
//! | `cli` | the command: one module per subcommand |

pub mod cli;
pub mod config;
