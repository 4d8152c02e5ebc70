//! What happened in a run, counted, so that nobody has to believe that the faults took place.

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of what happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }

            /// Names and counts, in order.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

stats! {
    /// Nodes that crashed.
    crashes,
    /// Of these, while a transaction was not committed.
    crashes_uncommitted,
    /// Of these, after the commit and before everything was released.
    crashes_unreleased,
    /// Of these, the sequencer.
    crashes_sequencer,
    /// Nodes that came back with an older disk.
    restores,
    /// Connections between nodes that were reset.
    resets,
    /// Times that two nodes could not reach each other for a while.
    partitions,
    /// Connections that were slow for a while.
    stalls,
    /// Disks that were slow for a while.
    slow_disks,
    /// Clients that lost their connection.
    client_resets,
    /// Times that an origin found a destination away.
    aways,
    /// Times that it was back.
    backs,
    /// Slices that went to a custodian.
    custody,
    /// Slices that were ordered before their destination had signed.
    pending,
    /// Challenges that were settled.
    challenges,
    /// Answers to them.
    answers,
    /// Losses that were settled.
    losses,
    /// Lapses.
    lapses,
    /// Fills that were settled.
    fills,
    /// Chains that died and were sealed again.
    reseals,
    /// Slices and cuts that had to be fetched.
    fetches,
    /// Frames that were delivered twice.
    duplicates,
    /// Mangled frames that were refused.
    mangled,
    /// Accepted chains that a client handed in.
    hand_ins,
    /// Bundles that were refused as they had to be.
    refused,
    /// Bundles that were signed again.
    signed_again,
    /// Bundles that were accepted, with proof.
    accepted,
    /// Of these, weakly.
    weak,
    /// Bundles that were ordered, with proof.
    ordered,
    /// Messages that were sent.
    messages,
    /// Entries that recipients verified.
    entries,
    /// Of these, late ones.
    late,
    /// Delivery proofs that senders verified.
    delivered,
    /// Attestations that recipients verified.
    attestations,
    /// Cuts.
    cuts,
    /// Events.
    events,
}
