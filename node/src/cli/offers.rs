//! What a reader does with the offer of a home that closes: it says so, and takes it if the owner has decided that.

use std::path::PathBuf;

use postroad_client::{ClientError, Mailbox, MovePolicy, NodeAddr};
use postroad_protocol::NodeId;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::moving::{Offer, accept, take_up};
use super::output::{CliError, Output};

/// The offers to one mailbox.
pub(super) struct Offers {
    dir: PathBuf,
    policy: MovePolicy,
    output: Output,
    /// A reader that waits for mail moves meanwhile; another one when it has read everything.
    follows: bool,
    carrying: Option<JoinHandle<()>>,
    accepted: Option<Offer>,
}

impl Offers {
    /// For a reader that waits for mail, or does not; one that changes nothing takes no offer.
    pub(super) fn of(
        mailbox: &Mailbox,
        follows: bool,
        changes_nothing: bool,
        output: &Output,
    ) -> Result<Offers, ClientError> {
        let policy = match mailbox.move_policy()? {
            MovePolicy::Accept if changes_nothing => MovePolicy::Ask,
            policy => policy,
        };
        let dir = mailbox.dir().to_owned();
        let mut offers = Offers { dir, policy, output: *output, follows, carrying: None, accepted: None };
        if policy == MovePolicy::Accept && follows {
            // What was interrupted goes on.
            offers.carry_out(None);
        }
        Ok(offers)
    }

    /// The home closes.
    pub(super) fn offered(&mut self, home: NodeId, to: &NodeAddr) -> Result<(), CliError> {
        let (line, plain) = told(&self.dir.display().to_string(), self.policy, home, to);
        self.output.emit(&line, &plain)?;
        if self.policy == MovePolicy::Accept {
            let offer = Offer { home, to: to.clone() };
            match self.follows {
                true => self.carry_out(Some(offer)),
                false => self.accepted = Some(offer),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, offer: Option<Offer>) {
        let before = self.carrying.take();
        let (dir, output) = (self.dir.clone(), self.output);
        self.carrying = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            if let Err(error) = take_up(&dir, offer.as_ref(), &output).await {
                output.error(&error);
            }
        }));
    }

    /// Everything is read: what was accepted is carried out now.
    pub(super) async fn end(self) -> Result<(), CliError> {
        match &self.accepted {
            Some(offer) => accept(&self.dir, Some(offer), false, &self.output).await,
            None => Ok(()),
        }
    }
}

fn told(mailbox: &str, policy: MovePolicy, home: NodeId, to: &NodeAddr) -> (Value, String) {
    let line = json!({
        "type": "retiring",
        "home": home.to_string(),
        "to": to.to_string(),
        "policy": policy.to_string(),
    });
    let offers = match policy {
        MovePolicy::Ask => format!("it offers {to}: postroad move start --mailbox {mailbox} --to {to}"),
        MovePolicy::Accept => format!("it offers {to}, and this mailbox accepts that"),
        MovePolicy::Never => format!("it offers {to}, and this mailbox takes no offers"),
    };
    (line, format!("your home {home} closes; {offers}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::SecretKey;

    #[test]
    fn whoever_is_asked_is_told_what_to_type() {
        let [home, to] = [1, 2].map(|seed| SecretKey::from_seed([seed; 32]).public());
        let to = NodeAddr::new(to, "/ip4/127.0.0.1/tcp/4170").unwrap();
        let (line, plain) = told("alice", MovePolicy::Ask, home, &to);
        assert_eq!((&line["type"], &line["policy"]), (&"retiring".into(), &"ask".into()));
        assert!(plain.contains(&format!("postroad move start --mailbox alice --to {to}")), "{plain}");
        assert!(!told("alice", MovePolicy::Never, home, &to).1.contains("move start"));
    }
}
