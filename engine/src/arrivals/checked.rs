//! What comes from others for a mailbox that moves here, checked before any room sees it.

use std::sync::Arc;

use postroad_protocol::evidence::{Claim, FalseHandoff};
use postroad_protocol::moving::{Base, Extract, HandoffPage, Move, MoveRequest, OwnerBase};
use postroad_protocol::signed::Verify;
use postroad_protocol::slice::{LeafRef, SliceKey, SliceLeaf};
use postroad_protocol::{Federation, MailboxId, NodeId, Verified, VerifyError};

/// An owner's order to take its mailbox over.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The switch, signed by its owner.
    pub order: Verified<Move>,
    /// How long the old home may be silent; zero: it is not asked.
    pub patience_ms: u64,
    /// What the owner has of the log.
    pub base: Option<(Base, Box<OwnerBase>)>,
}

impl Wanted {
    /// Checks every signature of a request, and that its base is of the same mailbox.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn check(request: MoveRequest, federation: &Federation) -> Result<Wanted, VerifyError> {
        let MoveRequest { order, patience_ms, base } = request;
        let order = Verified::check(order, federation)?;
        let base = match base {
            Some(base) => Some((base.verify(&order.switch.mailbox, federation)?, base)),
            None => None,
        };
        Ok(Wanted { order, patience_ms, base })
    }
}

/// What a slice holds for a mailbox, proven.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// The slice.
    pub key: SliceKey,
    /// Its leaves; none where it holds nothing for the mailbox.
    pub leaves: Vec<SliceLeaf>,
    /// The proof and the messages.
    pub extract: Arc<Extract>,
}

impl Extracted {
    /// Checks an extract.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn check(extract: Extract, mailbox: &MailboxId, federation: &Federation) -> Result<Extracted, VerifyError> {
        let leaves = extract.verify(mailbox, federation)?;
        Ok(Extracted { key: extract.key(federation), leaves, extract: Arc::new(extract) })
    }
}

/// A page of a log that an old home hands over.
#[derive(Clone, Debug)]
pub struct Handed {
    /// The page, whose statements and extracts hold.
    pub page: HandoffPage,
    /// The log that the attestation names.
    pub base: Base,
}

impl Handed {
    /// Checks a page that `node` has answered: its signatures, that attestation and handoff are of one log, that the
    /// messages are those of the entries. Whether the rows give that log is seen when they are all here.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn check(
        mut page: HandoffPage,
        node: &NodeId,
        mailbox: &MailboxId,
        federation: &Federation,
    ) -> Result<Handed, VerifyError> {
        let malformed = |reason| Err(VerifyError::Malformed { kind: "handoff", reason });
        let handoff = &page.handoff.body;
        if handoff.node != *node || handoff.mailbox != *mailbox {
            return malformed("it is of another node or mailbox");
        }
        page.handoff.verify(federation)?;
        if page.attested.anchor.is_none() {
            return malformed("the attestation is not final");
        }
        page.attested.verify(mailbox, node, federation)?;
        let base = page.attested.base(federation);
        if page.handoff.body.attestation.number != base.attestation.number {
            return malformed("it is of another attestation");
        }
        for handed in &mut page.rows {
            let Some(extract) = &handed.extract else { continue };
            let held = extract.verify(mailbox, federation)?;
            if extract.key(federation) != handed.row.slice {
                return malformed("the messages are of another slice");
            }
            // The places of the messages are those in the extract from now on.
            for leaf in &mut handed.row.leaves {
                match held.iter().find(|held| LeafRef::from(*held) == LeafRef::from(&*leaf)) {
                    Some(held) => *leaf = *held,
                    None => return malformed("the messages are not those of the entries"),
                }
            }
        }
        Ok(Handed { page, base })
    }

    /// What convicts the old home: it has signed for another log than the one that its attestation names, or for another
    /// attestation than the one that is final under that number.
    pub fn accusation(&self) -> Option<Claim> {
        let HandoffPage { handoff, attested, .. } = &self.page;
        let named = (handoff.body.attestation, handoff.body.log);
        if named == (self.base.attestation, self.base.log) {
            return None;
        }
        if named.0 == self.base.attestation {
            return Some(FalseHandoff::by_log(handoff, attested));
        }
        attested.anchor.clone().map(|anchor| FalseHandoff::by_anchor(handoff, anchor))
    }
}
