use super::*;

/// The same messages at the new home, settled in its time.
fn again(bench: &mut Bench, delivered: &[Delivered]) -> Vec<Delivered> {
    let settled = bench.order.epoch();
    let append = |Delivered { entry, cut }: &Delivered| bench.order.append(entry.proof.clone(), cut, settled);
    delivered.iter().map(append).collect()
}

fn numbers(received: &[Received]) -> Vec<u64> {
    let of = |received: &Received| match received {
        Received::Message(mail) => mail.number(),
        Received::Settled { .. } => None,
        other => panic!("nothing else is told: {other:?}"),
    };
    received.iter().filter_map(of).collect()
}

/// Two entries that are acknowledged under a final attestation, two that are acknowledged, one that was handed out, one
/// that waits in the queue.
async fn stage(dir: &Path) -> (Bench, Vec<Delivered>) {
    let mut bench = Bench::new(dir, Keep::Epochs(100));
    bench.receiver.settle_in(&bench.order.home()).unwrap();
    bench.arrive([1, 2]);
    bench.drain().await;
    bench.receiver.acknowledge().await.unwrap();
    bench.final_word();
    bench.receiver.acknowledge().await.unwrap();
    let beyond = bench.order_numbers([3, 4, 5, 6]);
    bench.read(&beyond[..2]).unwrap();
    assert_eq!(numbers(&bench.drain().await), [3, 4]);
    bench.receiver.acknowledge().await.unwrap();
    bench.read(&beyond[2..]).unwrap();
    let handed = bench.receiver.next().await.unwrap();
    assert_eq!(numbers(&[handed.unwrap()]), [5]);
    (bench, beyond)
}

#[tokio::test]
async fn what_comes_again_from_the_new_home_is_not_handed_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    let state = bench.order.moves_to(3, 2);
    bench.receiver.settle_in(&state).unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.reading), (2, 2));
    assert_eq!(bench.receiver.awaited_again(), 4);
    let again = again(&mut bench, &beyond);
    bench.read(&again).unwrap();
    let new = bench.order_numbers([7]);
    bench.read(&new).unwrap();
    bench.settle();
    assert_eq!(numbers(&bench.drain().await), [6, 7]);
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (7, 0));
    let attested = bench.order.attest();
    bench.receiver.take(ToClient::Attested(Box::new(attested))).unwrap();
    let told = bench.drain().await;
    assert!(matches!(told.as_slice(), [Received::Settled { size: 7, .. }]), "{told:?}");
    let mut bench = bench.restart(following());
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (7, 0));
    let more = bench.order_numbers([8]);
    bench.read(&more).unwrap();
    assert_eq!(numbers(&bench.drain().await), [8]);
}

#[tokio::test]
async fn what_the_application_had_is_known_after_a_restart_in_the_middle_of_a_move() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    let state = bench.order.moves_to(3, 2);
    bench.receiver.settle_in(&state).unwrap();
    let mut bench = bench.restart(following());
    let again = again(&mut bench, &beyond);
    bench.read(&again[..1]).unwrap();
    let mut bench = bench.restart(following());
    assert_eq!(bench.receiver.reading, 2, "nothing was acknowledged since");
    bench.read(&again).unwrap();
    // Five and six were never acknowledged.
    assert_eq!(numbers(&bench.drain().await), [5, 6]);
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (6, 0));
    assert_eq!(bench.receiver.kept_leaf(3).map(|leaf| leaf.settled), Some(again[1].entry.settled));
}

#[tokio::test]
async fn what_is_acknowledged_while_it_is_to_come_again_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    let state = bench.order.moves_to(3, 2);
    bench.receiver.settle_in(&state).unwrap();
    // Six waits in the queue still; five was handed out before the move.
    assert_eq!(numbers(&bench.drain().await), [6]);
    bench.receiver.acknowledge().await.unwrap();
    let mut bench = bench.restart(following());
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (2, 4));
    let again = again(&mut bench, &beyond);
    bench.read(&again).unwrap();
    assert_eq!(numbers(&bench.drain().await), []);
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (6, 0));
}

#[tokio::test]
async fn strict_order_holds_across_a_move() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(dir.path(), Keep::CrossChecked);
    let mut bench = bench.restart(ReceiverOptions { mode: Mode::Strict, ..following() });
    bench.receiver.settle_in(&bench.order.home()).unwrap();
    bench.arrive([1, 2]);
    bench.drain().await;
    bench.final_word();
    bench.receiver.acknowledge().await.unwrap();
    // One is held back at the old home: it may come late. What comes after it waits.
    let plain = Plain::Body(b"late".to_vec());
    let late = bench.order.order(vec![bench.seal(&plain, Numbering { number: 3, ..Numbering::default() })]);
    let below = (late.0.header.epoch, 0);
    let beyond = bench.order_numbers([4, 5]);
    bench.read(&beyond).unwrap();
    let (epoch, size) = (bench.order.epoch(), 4);
    bench.receiver.take(ToClient::Settled(Settled { epoch, size, below })).unwrap();
    assert_eq!(numbers(&bench.drain().await), []);
    let state = bench.order.moves_to(3, 2);
    bench.receiver.settle_in(&state).unwrap();
    let settled = bench.order.epoch();
    let third = bench.order.append(late.1[0].clone(), &late.0, settled);
    let again = again(&mut bench, &beyond);
    bench.read(&[third]).unwrap();
    bench.read(&again).unwrap();
    assert_eq!(numbers(&bench.drain().await), []);
    bench.settle();
    assert_eq!(numbers(&bench.drain().await), [3, 4, 5]);
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (5, 0));
}

#[tokio::test]
async fn a_log_that_goes_further_than_what_was_read_is_followed_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let (bench, beyond) = stage(dir.path()).await;
    let mut bench = bench.restart(following());
    assert_eq!(bench.receiver.low, 4);
    let state = bench.order.moves_to(3, 6);
    bench.receiver.settle_in(&state).unwrap();
    assert_eq!((bench.receiver.low, bench.receiver.awaited_again()), (4, 0));
    bench.read(&beyond[2..]).unwrap();
    assert_eq!(numbers(&bench.drain().await), [5, 6]);
    // What follows is settled in the new home's own time.
    let mut early = bench.order_numbers([7]);
    early[0].entry.settled = state.since - 1;
    let refused = bench.read(&early).unwrap_err();
    assert!(refused.is_violation(), "{refused}");
}

#[tokio::test]
async fn a_log_that_is_not_the_one_that_was_read_is_a_violation() {
    let other = |state: &postroad_protocol::state::MailboxState, size: u64, root: u8| {
        let mut state = state.clone();
        let import = state.moved.as_mut().unwrap().import.as_mut().unwrap();
        import.base.as_mut().unwrap().log = LogHead { size, root: Digest([root; 32]) };
        state
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = stage(dir.path()).await;
    let state = bench.order.moves_to(3, 2);
    let violated = bench.receiver.settle_in(&other(&state, 2, 9)).unwrap_err();
    assert!(matches!(violated, ClientError::Violation(Violation::NotContinued { .. })), "{violated}");
    assert!(bench.receiver.acknowledge().await.is_err());
    // One that parts from it above what a next home may continue is read again from there.
    for size in [4, 5] {
        let dir = tempfile::tempdir().unwrap();
        let (mut bench, _) = stage(dir.path()).await;
        let state = bench.order.moves_to(3, 2);
        bench.receiver.settle_in(&other(&state, size, 9)).unwrap();
        assert_eq!(bench.receiver.low, 2, "{size}");
    }
    // Of a longer one it is known when it has come so far.
    let dir = tempfile::tempdir().unwrap();
    let (bench, beyond) = stage(dir.path()).await;
    let mut bench = bench.restart(following());
    let state = bench.order.moves_to(3, 6);
    bench.receiver.settle_in(&other(&state, 6, 9)).unwrap();
    let violated = bench.read(&beyond[2..]).unwrap_err();
    assert!(matches!(violated, ClientError::Violation(Violation::NotContinued { size: 6, .. })), "{violated}");
}

#[tokio::test]
async fn a_new_home_that_has_not_taken_over_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, _) = stage(dir.path()).await;
    let mut state = bench.order.moves_to(3, 2);
    state.moved.as_mut().unwrap().import = None;
    assert!(bench.receiver.settle_in(&state).unwrap_err().is_transient());
    assert_eq!(bench.receiver.low, 4);
}

#[tokio::test]
async fn the_owner_has_a_base_that_verifies_also_while_a_receiver_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mailbox = mailbox(dir.path());
    assert_eq!(mailbox.owner_base().unwrap(), None);
    let (bench, _) = stage(dir.path()).await;
    let federation = bench.order.federation.clone();
    let running = mailbox.owner_base().unwrap().unwrap();
    assert_eq!(running.verify(&mailbox.address(), &federation).unwrap().log.size, 2);
    assert_eq!(bench.receiver.owner_base(), Some(running.clone()));
    drop(bench);
    assert_eq!(mailbox.owner_base().unwrap(), Some(running));
}

#[tokio::test]
async fn where_a_home_in_between_was_never_read_the_log_goes_back_to_what_is_sure() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    let mut state = bench.order.moves_to(3, 2);
    let again = again(&mut bench, &beyond);
    let moved = state.moved.as_mut().unwrap();
    let unread = postroad_protocol::state::Span { node: key(4).public(), ..moved.spans[0] };
    moved.spans.push(unread);
    moved.import.as_mut().unwrap().base.as_mut().unwrap().log = bench.order.attest().log.log;
    bench.receiver.settle_in(&state).unwrap();
    assert_eq!(bench.receiver.low, 2, "the log that the third home continues need not be the one that was read");
    bench.receiver.verifier.moves_to(key(3).public(), 0, 6);
    bench.read(&again).unwrap();
    assert_eq!(numbers(&bench.drain().await), [6]);
}

#[tokio::test]
async fn what_a_home_attests_before_the_move_to_it_is_finished_is_nothing_to_continue() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    let state = bench.order.moves_to(3, 2);
    bench.receiver.settle_in(&state).unwrap();
    let again = again(&mut bench, &beyond);
    bench.read(&again).unwrap();
    bench.drain().await;
    let size = |bench: &Bench| bench.receiver.tail.base().map(|base| base.frontier.size());
    bench.final_word();
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!(size(&bench), Some(2));
    let attested = bench.receiver.attestations.last_final().map(|last| last.attestation.body.epoch);
    bench.receiver.residence.as_mut().unwrap().complete = attested;
    let new = bench.order_numbers([7]);
    bench.read(&new).unwrap();
    bench.drain().await;
    bench.final_word();
    bench.receiver.acknowledge().await.unwrap();
    assert_eq!(size(&bench), Some(7));
}

#[tokio::test]
async fn where_the_new_home_continues_an_older_log_than_that_which_was_read_it_goes_back_to_what_is_sure() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bench, beyond) = stage(dir.path()).await;
    // The home that was read last never had the whole log: the next one continues the log of the one before it, and that
    // is the longer one.
    let mut state = bench.order.moves_to(3, 2);
    let again = again(&mut bench, &beyond);
    let longer = bench.order_numbers([7, 8]);
    let base = state.moved.as_mut().unwrap().import.as_mut().unwrap().base.as_mut().unwrap();
    (base.node, base.log) = (key(4).public(), bench.order.attest().log.log);
    bench.receiver.settle_in(&state).unwrap();
    assert_eq!(bench.receiver.low, 2, "the log that was continued need not be the one that was read");
    bench.receiver.verifier.moves_to(key(3).public(), 0, 8);
    bench.read(&again).unwrap();
    bench.read(&longer).unwrap();
    assert_eq!(numbers(&bench.drain().await), [6, 7, 8]);
}
