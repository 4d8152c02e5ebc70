//! A mailbox's own block list: the senders from whom its owner takes no mail. The owner signs it, so that a home cannot
//! make one up, and so that it can go with the mailbox to another home.

use minicbor::{Decode, Encode};

use crate::crypto::{MailboxId, PublicKey};
use crate::error::VerifyError;
use crate::signed::Statement;

/// The most senders that a list may name.
pub const MAX_BLOCKED: usize = 1_024;

/// From whom a mailbox takes no mail.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BlockList {
    /// The mailbox.
    #[n(0)]
    pub mailbox: MailboxId,
    /// Rises with every change; the highest holds.
    #[n(1)]
    pub version: u64,
    /// The senders, in ascending order.
    #[n(2)]
    pub senders: Vec<MailboxId>,
}

impl Statement for BlockList {
    const KIND: &'static str = "block-list";

    fn signer(&self) -> PublicKey {
        self.mailbox
    }
}

impl BlockList {
    /// Whether the list is well formed; who signed it is another question.
    ///
    /// # Errors
    /// [`VerifyError::Malformed`].
    pub fn check(&self) -> Result<(), VerifyError> {
        if self.senders.len() > MAX_BLOCKED {
            return Err(VerifyError::malformed(Self::KIND, "more than 1024 senders"));
        }
        if self.senders.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(VerifyError::malformed(Self::KIND, "senders are not in ascending order"));
        }
        Ok(())
    }
}
