//! Mending: what is damaged on this disk and that others have takes its place again when it comes.

use postroad_protocol::MailboxId;
use postroad_store::{Read, StoreError};

use super::Node;
use crate::arrivals::Extracted;
use crate::io::Output;
use crate::tables::{self, EXTRACTS};

impl Node {
    /// Extracts of a mailbox's mail came: those whose rows are damaged are written again.
    pub(super) fn mend_extracts(
        &mut self,
        mailbox: &MailboxId,
        found: &[Extracted],
        store: &dyn Read,
        out: &mut Vec<Output>,
    ) -> Result<(), StoreError> {
        let mut writes = Vec::new();
        for Extracted { key, extract, .. } in found {
            let key = tables::extract_key(mailbox, key);
            match store.get(EXTRACTS, &key) {
                Ok(_) => {}
                Err(StoreError::Corrupt { .. }) => writes.push(tables::put(EXTRACTS, key, &**extract)),
                Err(error) => return Err(error),
            }
        }
        if !writes.is_empty() {
            self.persist(writes, out);
        }
        Ok(())
    }
}
