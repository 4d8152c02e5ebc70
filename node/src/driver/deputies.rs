//! Deputies: the questions of nodes that name this one, and what this node asks those that it names.

use std::time::Duration;

use postroad_engine::Input;
use postroad_protocol::record::NodeRecord;
use postroad_protocol::wire::call::{Question, Reply};
use postroad_protocol::{NodeId, PublicKey, Refusal, Signature, Signed, Verified};

use super::Shared;
use super::calls::{ask, ask_core, verified};
use super::core::ToCore;

/// How long a deputy has to answer; the core waits a little longer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Another node names this one as a deputy.
pub(super) async fn consent(shared: &Shared, from: PublicKey, record: Signed<NodeRecord>) -> Result<Reply, Refusal> {
    let checked = shared.metrics.checked("deputies", Verified::check(record, &shared.federation));
    let record = verified(shared, from, checked).await?;
    Ok(Reply::Deputised(ask_core(shared, move |node| node.deputise(&record)).await??))
}

/// Asks every deputy that a record of this node names, and tells the core of each.
pub(super) fn ask_all(shared: &Shared, record: &Signed<NodeRecord>) {
    let digest = record.digest(&shared.federation);
    for deputy in record.body.deputies.iter().copied() {
        let (shared, record) = (shared.clone(), record.clone());
        shared.runtime.clone().spawn(async move {
            let answer = asked(&shared, &deputy, record).await;
            shared.tell(ToCore::input(Input::Deputised(deputy, digest, answer))).await;
        });
    }
}

async fn asked(shared: &Shared, deputy: &NodeId, record: Signed<NodeRecord>) -> Result<Signature, String> {
    match tokio::time::timeout(PATIENCE, ask(shared, deputy, &Question::Deputise(record))).await {
        Ok(Ok(Reply::Deputised(consent))) => Ok(consent),
        Ok(Ok(Reply::Refused(refusal))) => Err(refusal.to_string()),
        Ok(Ok(_)) => Err("it answers something else".to_owned()),
        Ok(Err(_)) | Err(_) => Err("it does not answer".to_owned()),
    }
}
