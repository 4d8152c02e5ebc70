//! Two processes with one key: on one directory the second refuses; with copied directories one incarnation wins, and
//! the other stops and says why.

use std::time::Instant;

use super::cluster::{Cluster, Running};
use crate::net::{PATIENCE, postroad, text};

#[test]
fn of_two_that_start_on_one_directory_at_once_one_serves_and_one_refuses() {
    let cluster = Cluster::plan(1);
    let mut command = cluster.command(1);
    for round in 0..4 {
        let twins = [0, 1].map(|twin| Running::start(&mut command, cluster.path(&format!("log-{round}-{twin}"))));
        let (mut serve, mut refuse) = (Vec::new(), Vec::new());
        for twin in twins {
            if twin.ready().is_some() { serve.push(twin) } else { refuse.push(twin.ended()) }
        }
        assert_eq!((serve.len(), refuse.len()), (1, 1), "round {round}: {refuse:?}");
        let refused = &refuse[0];
        assert_eq!((refused.code, &refused.error["code"]), (Some(5), &"in-use".into()), "{refused:?}");
        // A third comes while the first serves.
        let third = Running::start(&mut command, cluster.path("log-third")).ended();
        assert_eq!((third.code, &third.error["code"]), (Some(5), &"in-use".into()), "{third:?}");
        cluster.status(1);
        serve[0].signal("TERM");
        assert_eq!(serve.remove(0).ended().code, Some(0));
    }
}

#[test]
fn of_two_copies_one_incarnation_wins_and_the_other_stops() {
    let mut cluster = Cluster::start(3);
    let sender = cluster.mailbox("sender", 2);
    let recipient = cluster.mailbox("recipient", 3);
    assert_eq!(sender.send(&[&recipient], &["before"], &[]).code, 0);
    for at_once in [false, true] {
        cluster.stop(3);
        let dir = cluster.copy(3, "copy");
        if at_once {
            let mut command = cluster.command(3);
            cluster.launch(3, &mut command);
        } else {
            cluster.run_all(&[3]);
        }
        // One machine has each port once.
        let elsewhere = ["run", "--dir", text(&dir), "--listen", "/ip4/127.0.0.1/tcp/0"];
        let mut copy = Running::start(&mut postroad(&elsewhere), cluster.path("log-copy"));
        let deadline = Instant::now() + PATIENCE;
        let lost = loop {
            assert!(Instant::now() < deadline, "none of the two stops");
            match (cluster.running(3).has_ended(), copy.has_ended()) {
                (false, false) => std::thread::yield_now(),
                (true, false) => {
                    let lost = cluster.ended(3);
                    copy.signal("TERM");
                    assert_eq!(copy.ended().code, Some(0), "the winner stays until it is asked");
                    cluster.run_all(&[3]);
                    break lost;
                }
                (false, true) => break copy.ended(),
                (true, true) => panic!("both stopped: {:?} {:?}", cluster.ended(3), copy.ended()),
            }
        };
        assert_eq!((lost.code, &lost.error["code"]), (Some(1), &"stopped".into()), "{lost:?}");
        let reason = lost.error["message"].as_str().unwrap_or_default();
        assert!(reason.contains("another process with this node's key has started since"), "{reason}");
        // Whoever won: the federation goes on, with one node of that key.
        let sent = sender.send(&[&recipient], &["after"], &[]);
        assert_eq!(sent.code, 0, "{}", sent.error);
    }
    let texts: Vec<_> = recipient.recv_until(&[], 3).iter().map(|message| message["text"].clone()).collect();
    assert_eq!(texts, ["before", "after", "after"]);
}
