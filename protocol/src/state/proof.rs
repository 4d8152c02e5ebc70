//! Proofs under a cut's state root: where a mailbox lives, or that it is not registered.

use minicbor::{Decode, Encode};

use crate::codec::encode;
use crate::crypto::MailboxId;
use crate::cut::{CertifiedCut, CutHeader};
use crate::digest::{Digest, hash};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::{MapProof, MerkleMap};
use crate::signed::Verify;

use super::{MailboxState, Pending, PendingKey, State};

/// The place of the mailboxes' root among the parts of the state root.
const MAILBOXES: usize = 1;

/// The state root over the roots of its parts: nodes, mailboxes, pending slices, challenges, moves, committee.
pub(super) fn state_root(parts: &[Digest; 6]) -> Digest {
    Digest::tagged("state", &parts.each_ref().map(|part| part.as_bytes().as_slice()))
}

/// A mailbox's place in the directory as of one cut, or its absence.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct HomeProof {
    /// The cut.
    #[n(0)]
    pub cut: CertifiedCut,
    /// What the directory says after that cut; none if the mailbox is not registered.
    #[n(1)]
    pub value: Option<MailboxState>,
    /// The path in the map of mailboxes.
    #[n(2)]
    pub path: MapProof,
    /// The roots of the state's parts, in order.
    #[n(3)]
    pub parts: [Digest; 6],
}

impl State {
    /// The roots of the state's parts: nodes, mailboxes, pending slices, challenges, moves, committee.
    pub(super) fn parts(&self) -> [Digest; 6] {
        let moves = MerkleMap::<PendingKey, Pending>::default().root();
        [self.nodes.root(), self.mailboxes.root(), self.pending.root(), self.challenges.root(), moves, self.committee]
    }

    /// Proves where `mailbox` lives, under the state root of `cut`, which must be this state's.
    pub fn prove_home(&self, mailbox: &MailboxId, cut: CertifiedCut) -> HomeProof {
        let value = self.mailboxes.get(mailbox).cloned();
        HomeProof { cut, value, path: self.mailboxes.prove(mailbox), parts: self.parts() }
    }
}

impl HomeProof {
    /// Checks the proof for `mailbox` and gives the cut header under which it holds.
    ///
    /// # Errors
    /// [`VerifyError`] says which part does not hold.
    pub fn verify(&self, mailbox: &MailboxId, federation: &Federation) -> Result<&CutHeader, VerifyError> {
        self.cut.verify(federation)?;
        let value = self.value.as_ref().map(|value| hash(&[&encode(value)]));
        if self.path.verify(&self.parts[MAILBOXES], &mailbox.0) != Some(value)
            || state_root(&self.parts) != self.cut.header.state
        {
            return Err(VerifyError::Path { what: "mailbox" });
        }
        Ok(&self.cut.header)
    }
}
