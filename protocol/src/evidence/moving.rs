//! Faults of a move: what an old home hands over, what a new home takes over, and who says that a mailbox lives there.

use minicbor::{Decode, Encode};

use super::parts::{Attested, LeafAt, Residence};
use super::{Claim, ClaimError, Cleared, Fault, Verdict};
use crate::attestation::{Anchor, LogHead, MailboxAttestation};
use crate::batch::AttestationRef;
use crate::codec::encode;
use crate::crypto::{MailboxId, NodeId};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::moving::{Handoff, Import};
use crate::signed::{Signed, Verify};
use crate::state::HomeProof;

/// What shows that a node's word on one of its attestations is not so.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Refuted {
    /// That attestation, which says something else of the mailbox.
    #[n(0)]
    Log(#[n(0)] Box<Attested>),
    /// The header that made another one of that number final.
    #[n(1)]
    Other(#[n(0)] Box<Anchor>),
}

impl Refuted {
    /// Checks that it is not so that `node` has attested `log` in the attestation that `named` names. Whether that is
    /// final is not asked: who names one has seen it in a cut, and a number is of one attestation.
    fn judge(
        &self,
        mailbox: &MailboxId,
        node: &NodeId,
        named: &AttestationRef,
        log: &LogHead,
        federation: &Federation,
    ) -> Result<(), ClaimError> {
        match self {
            Refuted::Log(attested) => {
                attested.verify(mailbox, federation)?;
                let body = &attested.attestation.body;
                let digest = attested.attestation.digest(federation);
                if body.node != *node || digest != named.digest {
                    return Err(Cleared::OtherSlot.into());
                }
                let found = attested.log.as_ref().map(|found| found.log);
                if (body.number, body.epoch, found) == (named.number, named.epoch, Some(*log)) {
                    return Err(Cleared::Same.into());
                }
            }
            Refuted::Other(anchor) => {
                anchor.verify(federation)?;
                let header = &anchor.header.header.body;
                let is_it = |found: &AttestationRef| (header.origin, found.number) == (*node, named.number);
                match header.attestation.filter(is_it) {
                    None => return Err(Cleared::OtherSlot.into()),
                    Some(found) if found == *named => return Err(Cleared::Same.into()),
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// An old home has handed over a log that it never attested, finally.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct FalseHandoff {
    /// Its word.
    #[n(0)]
    pub handoff: Signed<Handoff>,
    /// What shows it.
    #[n(1)]
    pub by: Refuted,
}

impl FalseHandoff {
    /// The claim that what the handoff names is not what the attestation says that came with it.
    pub fn by_log(handoff: &Signed<Handoff>, attested: &MailboxAttestation) -> Claim {
        let by = Refuted::Log(Box::new(attested.clone().into()));
        Claim::FalseHandoff(Box::new(FalseHandoff { handoff: handoff.clone(), by }))
    }

    /// The claim that a cut has another attestation of that number.
    pub fn by_anchor(handoff: &Signed<Handoff>, anchor: Anchor) -> Claim {
        Claim::FalseHandoff(Box::new(FalseHandoff { handoff: handoff.clone(), by: Refuted::Other(Box::new(anchor)) }))
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let Handoff { node, mailbox, attestation, log, .. } = &self.handoff.body;
        self.handoff.verify(federation)?;
        self.by.judge(mailbox, node, attestation, log, federation)?;
        Ok(Verdict { mailbox: Some(*mailbox), ..Verdict::new(Fault::FalseHandoff, *node, attestation.epoch) })
    }
}

/// A new home does not continue the log that it says it continues, or continues one that was never attested.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FalseImport {
    /// It names a log that the former home never attested, finally. It had to see for itself.
    #[n(0)]
    Base(#[n(0)] Box<FalseBase>),
    /// It attests a log that is no continuation.
    #[n(1)]
    Continued(#[n(0)] Box<NotContinued>),
}

/// An import of a log that nobody attested.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct FalseBase {
    /// The new home's word, settled or not.
    #[n(0)]
    pub import: Signed<Import>,
    /// What shows it.
    #[n(1)]
    pub by: Refuted,
}

/// A log that does not continue the one that was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NotContinued {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The new home's attestation.
    #[n(1)]
    pub attested: Attested,
    /// What was taken over, as of the epoch that is attested or a later one.
    #[n(2)]
    pub home: HomeProof,
    /// Where it breaks off.
    #[n(3)]
    pub broken: Broken,
}

/// In what a log does not continue another one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Broken {
    /// It has fewer entries.
    #[n(0)]
    Shorter,
    /// It has another entry at one index: that of the log that was taken over, and its own.
    #[n(1)]
    Entry(#[n(0)] Box<LeafAt>, #[n(1)] Box<LeafAt>),
    /// This entry came with the new home, and says that a cut of before settled it.
    #[n(2)]
    Early(#[n(0)] Box<LeafAt>),
}

impl FalseImport {
    /// Who is accused.
    pub fn accused(&self) -> NodeId {
        match self {
            FalseImport::Base(claim) => claim.import.body.home,
            FalseImport::Continued(claim) => claim.attested.attestation.body.node,
        }
    }

    pub(super) fn slot(&self, federation: &Federation) -> Vec<u8> {
        match self {
            FalseImport::Base(claim) => encode(&(claim.import.body.mailbox, claim.import.digest(federation))),
            FalseImport::Continued(claim) => {
                let body = &claim.attested.attestation.body;
                encode(&(claim.mailbox, body.incarnation, body.number))
            }
        }
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        match self {
            FalseImport::Base(claim) => claim.judge(federation),
            FalseImport::Continued(claim) => claim.judge(federation),
        }
    }
}

impl FalseBase {
    fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let Import { mailbox, home, base, through, .. } = &self.import.body;
        self.import.verify(federation)?;
        let base = base.as_ref().ok_or(VerifyError::malformed("false import", "it continues no log"))?;
        self.by.judge(mailbox, &base.node, &base.attestation, &base.log, federation)?;
        Ok(Verdict { mailbox: Some(*mailbox), ..Verdict::new(Fault::FalseImport, *home, *through) })
    }
}

impl NotContinued {
    fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.attested.verify(&self.mailbox, federation)?;
        self.home.verify(&self.mailbox, federation)?;
        let body = &self.attested.attestation.body;
        let residence = Residence::of(&self.home, &body.node, body.epoch)?;
        // A home that was set back and cannot have the log again does not name the mailbox any more.
        if self.attested.log.is_none() {
            return Err(Cleared::NotNamed.into());
        }
        let head = self.attested.head();
        match &self.broken {
            Broken::Shorter if head.0 < residence.inherited() => {}
            Broken::Shorter => return Err(Cleared::Agrees { index: residence.inherited() }.into()),
            Broken::Entry(theirs, own) => {
                let base = residence.base.ok_or(Cleared::Agrees { index: theirs.index })?;
                theirs.verify((base.log.size, base.log.root))?;
                own.verify(head)?;
                if theirs.index != own.index {
                    return Err(VerifyError::malformed("false import", "the entries are of two indexes").into());
                }
                if theirs.leaf == own.leaf {
                    return Err(Cleared::Agrees { index: own.index }.into());
                }
            }
            Broken::Early(entry) => {
                entry.verify(head)?;
                residence.is_own(entry.index)?;
                if entry.leaf.settled >= residence.since {
                    return Err(Cleared::Agrees { index: entry.index }.into());
                }
            }
        }
        let verdict = Verdict::new(Fault::FalseImport, body.node, body.epoch);
        Ok(Verdict { mailbox: Some(self.mailbox), ..verdict })
    }
}

/// A node has attested a mailbox in an epoch in which it lived elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct FalseHome {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// The attestation.
    #[n(1)]
    pub attested: Attested,
    /// Where the mailbox lived then, as of that epoch or a later one.
    #[n(2)]
    pub home: HomeProof,
}

impl FalseHome {
    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        self.attested.verify(&self.mailbox, federation)?;
        let body = &self.attested.attestation.body;
        let (node, epoch) = (body.node, body.epoch);
        if self.home.verify(&self.mailbox, federation)?.epoch < epoch {
            return Err(VerifyError::malformed("home proof", "it is of an earlier epoch").into());
        }
        if self.attested.log.is_none() {
            return Err(Cleared::NotNamed.into());
        }
        match self.home.value.as_ref().and_then(|value| value.home_at(epoch)) {
            None => Err(Cleared::NotThere { epoch }.into()),
            Some(home) if home == node => Err(Cleared::LivedThere { epoch }.into()),
            Some(_) => Ok(Verdict { mailbox: Some(self.mailbox), ..Verdict::new(Fault::FalseHome, node, epoch) }),
        }
    }
}
