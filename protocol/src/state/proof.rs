//! Proofs under a cut's state root: where a mailbox lives, or that it is not registered.

use minicbor::{Decode, Encode};

use crate::codec::encode;
use crate::crypto::MailboxId;
use crate::cut::{CertifiedCut, CutHeader};
use crate::digest::{Digest, hash};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::merkle::map::{MapKey, MapProof, MapValue};
use crate::signed::Verify;

use super::{LostSlice, MailboxState, Pending, PendingKey, State};

/// Of how many parts a state root is made: nodes, mailboxes, pending slices, challenges, losses, moves, committee.
pub const STATE_PARTS: usize = 7;
/// The places of some of them.
const MAILBOXES: usize = 1;
const PENDING: usize = 2;
const LOSSES: usize = 4;

/// The state root over the roots of its parts.
pub(super) fn state_root(parts: &[Digest; STATE_PARTS]) -> Digest {
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
    pub parts: [Digest; STATE_PARTS],
}

impl State {
    /// The roots of the state's parts.
    pub fn parts(&self) -> [Digest; STATE_PARTS] {
        [
            self.nodes.root(),
            self.mailboxes.root(),
            self.pending.root(),
            self.challenges.root(),
            self.losses.root(),
            self.moves.root(),
            self.committee,
        ]
    }

    /// The path of a pending slice in its map, or of its absence.
    pub fn prove_pending(&self, key: &PendingKey) -> MapProof {
        self.pending.prove(key)
    }

    /// The path of a lost slice in its map, or of its absence.
    pub fn prove_lost(&self, key: &PendingKey) -> MapProof {
        self.losses.prove(key)
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

    /// Checks that the same state has this lost slice, or none of that name. Of a proof that holds.
    ///
    /// # Errors
    /// [`VerifyError::Path`].
    pub fn verify_loss(&self, key: &PendingKey, lost: Option<&LostSlice>, path: &MapProof) -> Result<(), VerifyError> {
        verify_lost(&self.cut.header, &self.parts, key, lost, path).ok_or(VerifyError::Path { what: "lost slice" })
    }
}

/// Whether `parts` are those of the state after `cut`, and `path` leads from `value` to one of them.
fn leads<V: MapValue>(
    cut: &CutHeader,
    parts: &[Digest; STATE_PARTS],
    part: usize,
    key: &PendingKey,
    value: Option<&V>,
    path: &MapProof,
) -> Option<()> {
    let value = value.map(|value| hash(&[&value.value_bytes()]));
    (state_root(parts) == cut.state && path.verify(&parts[part], &key.key_bytes()) == Some(value)).then_some(())
}

/// Whether the state after `cut` has this pending slice.
pub fn verify_pending(
    cut: &CutHeader,
    parts: &[Digest; STATE_PARTS],
    key: &PendingKey,
    value: &Pending,
    path: &MapProof,
) -> Option<()> {
    leads(cut, parts, PENDING, key, Some(value), path)
}

/// Whether the state after `cut` has this lost slice, or has none of that name.
pub fn verify_lost(
    cut: &CutHeader,
    parts: &[Digest; STATE_PARTS],
    key: &PendingKey,
    value: Option<&LostSlice>,
    path: &MapProof,
) -> Option<()> {
    leads(cut, parts, LOSSES, key, value, path)
}
