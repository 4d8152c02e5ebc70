//! What the fuzzers run, as plain functions: one body per target, so that its corpus runs as an ordinary test too.
//!
//! `fuzz/` has one binary per entry of [`TARGETS`] and nothing else; `fuzz/corpus/` has their inputs, which
//! `tests/tests/corpora.rs` replays on every run and writes anew from the golden vectors when it is told to. A body
//! panics when something that must hold for every input does not.

mod decode;
mod federation;
mod frames;
mod texts;

use peak_alloc::PeakAlloc;
use postroad_protocol::Federation;

pub use decode::{Body, KINDS, kind_of};

/// One target of the fuzzer.
pub struct Target {
    /// The name of its binary and of its corpus.
    pub name: &'static str,
    /// What it does with an input.
    pub body: fn(&[u8]),
    /// How many bytes of memory it may take at once for each byte of input; `None` where the input is not what is
    /// decoded.
    pub growth: Option<usize>,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    // An element of one byte can become a `Vec` or a text of 24 bytes, in a list that has just doubled, beside the copy
    // that it grows from.
    Target { name: "statements", body: decode::statements, growth: Some(128) },
    Target { name: "proof", body: decode::proof, growth: Some(128) },
    Target { name: "rows", body: decode::rows, growth: Some(128) },
    Target { name: "frames", body: frames::frames, growth: Some(8) },
    // The parser of TOML keeps several tables of what it has seen.
    Target { name: "genesis", body: texts::genesis, growth: Some(1_024) },
    Target { name: "config", body: texts::config, growth: Some(1_024) },
    Target { name: "texts", body: texts::texts, growth: Some(64) },
    Target { name: "apply", body: federation::apply_what_was_drafted, growth: None },
];

/// What any input may take, however short it is: tables made at first use, and the texts of errors.
const FIRST_BYTES: usize = 256 << 10;

/// The target of this name.
///
/// # Panics
/// When there is none: a binary and the list have drifted apart.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no fuzz target {name}"))
}

impl Target {
    /// Runs the body, and holds what it allocates to a multiple of the input, where the program has [`PeakAlloc`] for
    /// its allocator.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn run(&self, input: &[u8]) {
        let allocator = PeakAlloc;
        allocator.reset_peak_usage();
        let before = allocator.current_usage();
        (self.body)(input);
        let taken = allocator.peak_usage().saturating_sub(before);
        if let Some(growth) = self.growth {
            let allowed = FIRST_BYTES + growth * input.len();
            assert!(taken <= allowed, "{}: {taken} bytes for an input of {}", self.name, input.len());
        }
    }
}

/// The federation of the golden vectors, under which their signatures verify.
fn golden() -> &'static Federation {
    static GOLDEN: std::sync::OnceLock<Federation> = std::sync::OnceLock::new();
    GOLDEN.get_or_init(|| {
        let text = include_str!("../../../fuzz/corpus/genesis/golden");
        let genesis = postroad_protocol::Genesis::from_text(text).expect("the golden genesis");
        Federation::new(genesis).expect("the golden genesis")
    })
}
