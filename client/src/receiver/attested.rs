//! The last attestations of the home, as they came: what a later split view is proven with.

use std::collections::VecDeque;

use postroad_protocol::Federation;
use postroad_protocol::attestation::MailboxAttestation;
use postroad_protocol::evidence::Evidence;

use crate::accuse;
use crate::verify_log::Violation;

/// How many of the last attestations are kept, besides the last final one.
pub const MAX_RECENT: usize = 8;

/// The last attestations, all of whose signatures hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Attestations {
    /// Oldest first.
    recent: VecDeque<MailboxAttestation>,
    last_final: Option<MailboxAttestation>,
    pub(super) is_changed: bool,
}

impl Attestations {
    pub(super) fn resume(recent: Vec<MailboxAttestation>, last_final: Option<MailboxAttestation>) -> Attestations {
        Attestations { recent: recent.into(), last_final, is_changed: false }
    }

    /// All of them: the last final one first, then the others, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &MailboxAttestation> {
        let known = |final_one: &&MailboxAttestation| !self.recent.contains(final_one);
        self.last_final.iter().filter(known).chain(&self.recent)
    }

    pub(super) fn last_final(&self) -> Option<&MailboxAttestation> {
        self.last_final.as_ref()
    }

    pub(super) fn recent(&self) -> impl Iterator<Item = &MailboxAttestation> {
        self.recent.iter()
    }

    /// Whether an attestation and those before it can be the words of one honest home. This finds what the log that was
    /// delivered cannot show: it does not need the leaves.
    pub(super) fn compare(&self, new: &MailboxAttestation, federation: &Federation) -> Result<(), Violation> {
        let (body, log) = (&new.attestation.body, &new.log.log);
        let of_one_start = |known: &&MailboxAttestation| known.attestation.body.incarnation == body.incarnation;
        for known in self.all().filter(of_one_start) {
            let (before, known_log) = (&known.attestation.body, &known.log.log);
            let number = body.number;
            if before.number == number && known.attestation.digest(federation) != new.attestation.digest(federation) {
                return Err(Violation::TwoAttestations { number });
            }
            if known_log.size == log.size && known_log.root != log.root {
                return Err(Violation::Root { number, size: log.size });
            }
            if before.number < number && known_log.size > log.size {
                return Err(Violation::Shrunk { number, size: log.size, before: known_log.size });
            }
            if before.number > number && known_log.size < log.size {
                return Err(Violation::Shrunk { number: before.number, size: known_log.size, before: log.size });
            }
        }
        Ok(())
    }

    /// Evidence that an attestation and one of those before it are two words under one number. That two logs disagree
    /// says nothing without the directory: [`Explainer::split_logs`](crate::Explainer::split_logs).
    pub(super) fn convict(&self, new: &MailboxAttestation, federation: &Federation) -> Option<Evidence> {
        self.all().find_map(|known| accuse::two_attestations(&known.attestation, &new.attestation, federation))
    }

    /// The mailbox lives elsewhere now: what a former home has attested binds nobody there.
    pub(super) fn forget(&mut self) {
        *self = Attestations { is_changed: true, ..Attestations::default() };
    }

    /// Keeps an attestation whose signature holds, in the place of the same one without an anchor.
    pub(super) fn take(&mut self, new: &MailboxAttestation) {
        let number = new.attestation.body.number;
        if new.anchor.is_some() && self.last_final.as_ref().is_none_or(|known| known.attestation.body.number <= number)
        {
            self.last_final = Some(new.clone());
        }
        self.recent.retain(|known| known.attestation.body != new.attestation.body);
        self.recent.push_back(new.clone());
        if self.recent.len() > MAX_RECENT {
            self.recent.pop_front();
        }
        self.is_changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Order, federation};
    use postroad_protocol::Digest;
    use postroad_protocol::attestation::LogHead;

    #[test]
    fn the_last_ones_and_the_last_final_one_are_kept() {
        let mut order = Order::new();
        let mut kept = Attestations::default();
        let first = order.attest();
        kept.take(&first);
        let anchored = order.anchor(first);
        kept.take(&anchored);
        assert_eq!(kept.all().collect::<Vec<_>>(), [&anchored], "the anchor was added to it");
        for _ in 0..20 {
            kept.take(&order.attest());
        }
        assert_eq!(kept.all().count(), MAX_RECENT + 1);
        assert_eq!(kept.last_final(), Some(&anchored));
    }

    #[test]
    fn two_words_are_found_without_any_leaf() {
        let mut order = Order::new();
        let mut kept = Attestations::default();
        order.deliver(&["one", "two"]);
        let honest = order.attest();
        kept.take(&honest);
        kept.compare(&honest, &federation()).unwrap();
        kept.compare(&order.anchor(honest.clone()), &federation()).unwrap();
        let (number, size) = (honest.attestation.body.number, honest.log.log.size);
        let other = |size| LogHead { size, root: Digest([3; 32]) };
        let cases = [
            (order.attest_as(number, other(1)), Violation::TwoAttestations { number }),
            (order.attest_as(number + 1, other(size)), Violation::Root { number: number + 1, size }),
            (order.attest_as(number + 1, other(1)), Violation::Shrunk { number: number + 1, size: 1, before: size }),
            (order.attest_as(number - 1, other(3)), Violation::Shrunk { number, size, before: 3 }),
        ];
        for (lie, violation) in cases {
            // Logs that disagree may be of two residences; two words under one number convict by themselves.
            let convicts = matches!(violation, Violation::TwoAttestations { .. });
            assert_eq!(kept.convict(&lie, &federation()).is_some(), convicts);
            assert_eq!(kept.compare(&lie, &federation()), Err(violation));
        }
    }
}
