//! Final attestations of this node, recomputed from the recomputed logs.
//!
//! No attestation is stored; a cut that makes one final carries its digest and its epoch. The map that it attests also
//! carries each owner's last acknowledgement *at that time*, and a store keeps only the last one of all: so an attestation
//! that matches is proven, and one that does not is a problem only where no owner has acknowledged anything, nothing is
//! past retention (which the map says of each log), and no mailbox has moved here.

use std::collections::VecDeque;

use postroad_engine::tables::{CUTS, number_key};
use postroad_protocol::attestation::{Acknowledgement, Attestation, AttestedLog};
use postroad_protocol::cut::Cut;
use postroad_protocol::merkle::map::MerkleMap;
use postroad_protocol::signed::Statement;
use postroad_protocol::{Digest, MailboxId, Signed};

use super::Context;
use super::report::Report;

/// Epochs between an attestation and the cut that makes it final, at most.
const MAX_EPOCHS: usize = 1_024;

/// What was found of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attested {
    /// Attestations that were recomputed.
    pub(super) recomputed: u64,
    /// Attestations that cannot be.
    pub(super) unknown: u64,
}

/// The map of all mailboxes as of one epoch.
struct Seen {
    epoch: u64,
    mailboxes: u64,
    /// Without any acknowledgement, and with the last ones.
    roots: [Digest; 2],
}

#[derive(Default)]
pub(super) struct Attestations {
    plain: MerkleMap<MailboxId, AttestedLog>,
    acknowledged: MerkleMap<MailboxId, AttestedLog>,
    seen: VecDeque<Seen>,
    attested: Attested,
}

impl Attestations {
    /// How a log stands now.
    pub(super) fn set(&mut self, mailbox: MailboxId, log: AttestedLog, last: Option<&Signed<Acknowledgement>>) {
        let acknowledged = AttestedLog { acknowledged: last.cloned(), ..log.clone() };
        self.plain.insert(mailbox, log);
        self.acknowledged.insert(mailbox, acknowledged);
    }

    /// A mailbox is in the map no more.
    pub(super) fn remove(&mut self, mailbox: &MailboxId) {
        self.plain.remove(mailbox);
        self.acknowledged.remove(mailbox);
    }

    /// A cut is walked over. `decisive`: whether an attestation that does not match is wrong.
    pub(super) fn walk(&mut self, context: &Context<'_>, cut: &Cut, decisive: bool, report: &mut Report<'_>) {
        let epoch = cut.certified.header.epoch;
        for (position, sealed) in cut.body.headers.iter().enumerate() {
            let header = &sealed.header.body;
            let Some(named) = header.attestation.filter(|_| header.origin == context.me) else { continue };
            let is_it = |seen: &Seen| -> bool {
                seen.roots.iter().any(|root| {
                    let body = Attestation {
                        node: context.me,
                        incarnation: header.incarnation,
                        number: named.number,
                        epoch: seen.epoch,
                        mailboxes: seen.mailboxes,
                        root: *root,
                    };
                    body.digest(context.federation.id()) == named.digest
                })
            };
            let seen = self.seen.iter().rev().find(|seen| seen.epoch == named.epoch);
            if seen.is_some_and(is_it) {
                self.attested.recomputed += 1;
            } else {
                self.attested.unknown += 1;
                if decisive {
                    let what = format_args!(
                        "attestation {} in header {position} is not of the logs that the cuts make",
                        named.number
                    );
                    report.problem(CUTS, &number_key(epoch), what);
                }
            }
        }
        let roots = [self.plain.root(), self.acknowledged.root()];
        self.seen.push_back(Seen { epoch, mailboxes: self.plain.len() as u64, roots });
        if self.seen.len() > MAX_EPOCHS {
            self.seen.pop_front();
        }
    }

    pub(super) fn attested(&self) -> Attested {
        self.attested
    }
}
