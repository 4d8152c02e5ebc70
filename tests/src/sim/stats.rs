//! What happened in a run, counted, so that nobody has to believe that the faults took place.

/// What needs more than one misfortune at once: a holder that was set back, and nobody else in reach.
const RARE: [&str; 2] = ["losses", "overdue"];

/// What happens only where owners move their mailboxes.
const MOVING: [&str; 11] = [
    "moves_ordered",
    "moves_rivals",
    "moves_stays",
    "moves_without_old_home",
    "moves_by_recovery",
    "switches",
    "imports",
    "imports_missing",
    "handoffs",
    "extracts",
    "rolled_back",
];

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of what happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// What never happened, and does in every two hundred seeds.
            pub fn never(&self, moves: bool) -> Vec<&'static str> {
                let rare = |name: &&str| RARE.contains(name) || !moves && MOVING.contains(name);
                let never = |(name, count): &(&str, u64)| *count == 0 && !rare(name);
                self.list().into_iter().filter(never).map(|(name, _)| name).collect()
            }

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
    /// Of these, while a transaction was under way, which was lost.
    crashes_uncommitted,
    /// Of these, while a transaction was under way, which was on disk though nobody had heard.
    crashes_unheard,
    /// Of these, after the commit and before everything was released.
    crashes_unreleased,
    /// Of these, the sequencer.
    crashes_sequencer,
    /// Nodes that were told to drain.
    drains,
    /// Of these, those that stopped with nothing under way.
    drained,
    /// Processes that ended by themselves.
    stops,
    /// Nodes that came back with an older disk.
    restores,
    /// Of these, the sequencer.
    restores_sequencer,
    /// Disks that were slow for a while.
    slow_disks,
    /// Disks that were full for a while.
    full_disks,
    /// Commits for which there was no space.
    full_commits,
    /// Wall clocks that were set forward.
    clocks_forward,
    /// Wall clocks that were set back.
    clocks_back,
    /// Of these, the sequencer's.
    clocks_sequencer,
    /// Connections between nodes that were reset.
    resets,
    /// Times that two nodes could not reach each other for a while.
    partitions,
    /// Times that nobody could reach a node for a while.
    isolations,
    /// Times that the nodes were in two parts for a while.
    splits,
    /// Connections on which everything took long for a while.
    stalls,
    /// Connections that carried few bytes for a while.
    slow_links,
    /// Frames that went over them.
    slow_frames,
    /// Connections that broke because too much waited on them.
    choked,
    /// Frames that took long, and held up those behind them.
    delays,
    /// Frames that overtook another one of their stream.
    overtaken,
    /// Frames that were delivered twice.
    duplicates,
    /// Mangled frames that were refused.
    mangled,
    /// Clients that lost their connection.
    client_resets,
    /// Clients that crashed.
    client_crashes,
    /// Of these, those that came back with an older store.
    clients_set_back,
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
    /// Slices that were overdue, as readers were told.
    overdue,
    /// Nodes that lapsed.
    lapses,
    /// Nodes that attested again, so that their lapse was over.
    lapses_ended,
    /// Fills that were settled.
    fills,
    /// Chains that died and were sealed again.
    reseals,
    /// Slices and cuts that had to be fetched.
    fetches,
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
    /// Switches that owners signed for another node.
    moves_ordered,
    /// Switches that replace the same record as another one.
    moves_rivals,
    /// Switches to the present home, which abandon a move.
    moves_stays,
    /// Moves that do not ask the old home.
    moves_without_old_home,
    /// Switches that a recovery key signed.
    moves_by_recovery,
    /// Mailboxes that changed their home.
    switches,
    /// Imports that were settled.
    imports,
    /// Of these, those that name something as missing.
    imports_missing,
    /// Pages of logs that were handed over.
    handoffs,
    /// Slices of former homes that were looked into for mail.
    extracts,
    /// Entries that owners had read beyond what their new home continues, and read again.
    rolled_back,
    /// Cuts.
    cuts,
    /// Events.
    events,
}
