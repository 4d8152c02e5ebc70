//! The pool that verifies bundles: what waits at the same time is verified together, which costs about half.
//!
//! Nobody waits for company: a thread takes what is there. So at a low rate a bundle is verified at once and alone, and
//! under load batches grow by themselves. Each client stream has one bundle here at most.

use std::sync::{Arc, Mutex, PoisonError};

use postroad_protocol::bundle::Bundle;
use postroad_protocol::{Federation, Verified, VerifyError};
use tokio::sync::{mpsc, oneshot};

/// Bundles that wait, at most; whoever has another one waits for room.
const MAX_WAITING: usize = 256;
/// Bundles that are verified together, and the messages in them that are enough to stop at, because hashing those takes
/// its time too.
const TOGETHER: (usize, usize) = (64, 256);

type Answer = oneshot::Sender<Result<Verified<Bundle>, VerifyError>>;
type Waiting = (Bundle, Answer);

/// A handle to the pool, whose threads end with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Verifier(mpsc::Sender<Waiting>);

impl Verifier {
    /// Starts a thread for each core.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn start(federation: &Federation) -> std::io::Result<Verifier> {
        let (sender, queue) = mpsc::channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (queue, federation) = (Arc::clone(&queue), federation.clone());
            let thread = std::thread::Builder::new().name("postroad-verify".into());
            thread.spawn(move || work(&queue, &federation))?;
        }
        Ok(Verifier(sender))
    }

    /// Verifies a bundle; nothing if the pool is gone.
    pub(super) async fn check(&self, bundle: Bundle) -> Option<Result<Verified<Bundle>, VerifyError>> {
        let (answer, answered) = oneshot::channel();
        self.0.send((bundle, answer)).await.ok()?;
        answered.await.ok()
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Waiting>>, federation: &Federation) {
    while let Some((bundles, answers)) = take(queue) {
        for (answer, checked) in answers.into_iter().zip(Verified::check_all(bundles, federation)) {
            // A client that has gone needs none.
            let _ = answer.send(checked);
        }
    }
}

/// Waits for a bundle, and takes those that wait behind it.
fn take(queue: &Mutex<mpsc::Receiver<Waiting>>) -> Option<(Vec<Bundle>, Vec<Answer>)> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let (first, answer) = queue.blocking_recv()?;
    let mut messages = first.messages.len();
    let (mut bundles, mut answers) = (vec![first], vec![answer]);
    while bundles.len() < TOGETHER.0
        && messages < TOGETHER.1
        && let Ok((bundle, answer)) = queue.try_recv()
    {
        messages += bundle.messages.len();
        bundles.push(bundle);
        answers.push(answer);
    }
    Some((bundles, answers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postroad_protocol::bundle::BundleBody;
    use postroad_protocol::genesis::Member;
    use postroad_protocol::message::{Message, Recipient};
    use postroad_protocol::{SecretKey, Signed};

    fn federation() -> Federation {
        let node = SecretKey::from_seed([9; 32]).public();
        let member = Member { node, addrs: vec!["/ip4/127.0.0.1/tcp/1".into()] };
        crate::cli::genesis::build("pool", vec![member], Vec::new(), Default::default()).expect("a federation")
    }

    fn bundle(seed: u8, federation: &Federation) -> Bundle {
        let secret = SecretKey::from_seed([seed; 32]);
        let recipients = vec![Recipient { mailbox: secret.public(), own: vec![seed] }];
        let messages = vec![Message { salt: [seed; 16], common: Vec::new(), recipients }];
        let body = BundleBody::new(secret.public(), federation.sequencer(), 1, 1_000, &messages);
        Bundle { signed: Signed::sign(body, &secret, federation).into_inner(), messages }
    }

    #[tokio::test]
    async fn a_bad_signature_among_good_ones_is_found_and_harms_none() {
        let federation = federation();
        let pool = Verifier::start(&federation).expect("threads");
        let checks = (0..100_u8).map(|seed| {
            let mut bundle = bundle(seed, &federation);
            if seed % 10 == 3 {
                bundle.signed.signature.0[7] ^= 1;
            }
            pool.check(bundle)
        });
        for (seed, checked) in futures::future::join_all(checks).await.into_iter().enumerate() {
            assert_eq!(checked.expect("the pool is there").is_ok(), seed % 10 != 3, "{seed}");
        }
    }
}
