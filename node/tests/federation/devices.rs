//! What the owner of a mailbox keeps beside the device: the recovery key.

use crate::net::{Net, run, text};

#[test]
fn a_recovery_key_is_named_at_registration_and_everybody_can_look_it_up() {
    let net = Net::start(2);
    let (file, dir) = (net.path("recovery.key"), net.path("alice"));
    let made = run(&["mailbox", "new-recovery-key", "--out", text(&file)]);
    assert_eq!(made.code, 0, "{made:?}");
    let key = made.lines[0]["key"].as_str().expect("a key");
    assert_ne!(run(&["mailbox", "new-recovery-key", "--out", text(&file)]).code, 0, "nothing is overwritten");

    let new = |dir: &str, recovery: &str| {
        run(&["mailbox", "new", "--dir", dir, "--home", &net.addr(1), "--recovery-key", recovery])
    };
    let alice = new(text(&dir), key);
    assert_eq!((alice.code, &alice.lines[0]["recovery_key"]), (0, &key.into()), "{alice:?}");
    // The file says the same key, so this is the same mailbox and the same registration.
    let again = new(text(&dir), text(&file));
    assert_eq!((again.code, &again.lines), (0, &alice.lines), "{again:?}");
    assert_eq!(new(text(&net.path("carol")), "nothing-like-it").code, 2);

    let shown = |address: &str| {
        let ran = run(&["directory", "show", address, "--node", &net.addr(2)]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.lines[0]["recovery_key"].clone()
    };
    assert_eq!(shown(alice.lines[0]["address"].as_str().expect("an address")), key);
    assert!(shown(&net.mailbox("bob", 2).address).is_null());
}
