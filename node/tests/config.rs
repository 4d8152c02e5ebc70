//! `postroad.toml`: what is written is what is read, and what is wrong is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use postroad::config::{
    ConfigError, DeputyFor, Http, Limits, LogFormat, Moves, NodeConfig, NodeDir, Registration, Setting, render,
};
use postroad_protocol::SecretKey;

fn env(pairs: &[(&str, &str)]) -> Vec<Setting> {
    Setting::from_env(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
}

fn written(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("postroad.toml"), text).expect("it can be written");
    dir
}

#[test]
fn the_written_file_says_the_defaults() {
    let text = render(&NodeConfig::default());
    assert_eq!(NodeConfig::parse(&text), Ok(NodeConfig::default()));
    assert_eq!(NodeConfig::parse(""), Ok(NodeConfig::default()));
}

#[test]
fn other_values_survive_as_well() {
    let ids: Vec<_> = (1..4).map(|seed| SecretKey::from_seed([seed; 32]).public()).collect();
    let config = NodeConfig {
        name: "a \"name\" # with signs\n".into(),
        deputies: ids.clone(),
        deputy_for: DeputyFor::Only(ids.clone()),
        allow_registration: Registration::Only(ids),
        announce: vec!["/dns4/post.example/tcp/4170".parse().expect("an address")],
        http: Http { listen: None },
        log_format: LogFormat::Json,
        limits: Limits { max_clients: 7, ..Limits::default() },
        ..NodeConfig::default()
    };
    assert_eq!(NodeConfig::parse(&render(&config)), Ok(config));
}

#[test]
fn environment_beats_file_and_flags_beat_environment() {
    let dir = written("name = \"file\"\nredial_cap_ms = 5\n[limits]\nmax_clients = 1\n");
    let mut settings = env(&[
        ("POSTROAD_NAME", "environment"),
        ("POSTROAD_LIMITS_MAX_CLIENTS", "2"),
        ("POSTROAD_LISTEN", "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2"),
        ("POSTROAD_ALLOW_REGISTRATION", "closed"),
        ("POSTROAD_SERVICE_HOST", "somebody else's"),
        ("PATH", "x"),
    ]);
    settings.push(Setting::flag("--name", "name", "flag"));
    let config = NodeConfig::load(dir.path(), &settings).expect("it loads");
    assert_eq!((config.name.as_str(), config.redial_cap_ms, config.limits.max_clients), ("flag", 5, 2));
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.allow_registration, Registration::Closed);
    assert_eq!(config.dir, NodeDir::new(dir.path()));
}

#[test]
fn http_is_at_an_address_with_a_port_or_nowhere() {
    let dir = written("[http]\nlisten = \"\"\n");
    let load = |settings: &[Setting]| NodeConfig::load(dir.path(), settings);
    assert_eq!(load(&[]).expect("it loads").http, Http { listen: None });
    let config = load(&env(&[("POSTROAD_HTTP_LISTEN", "[::1]:9")])).expect("it loads");
    assert_eq!(config.http.listen, Some("[::1]:9".parse().expect("an address")));
    let error = load(&[Setting::flag("--set http.listen", "http.listen", "localhost")]).expect_err("no port");
    assert!(error.to_string().contains("127.0.0.1:4171"), "{error}");
    let error = NodeConfig::parse("log_format = \"xml\"").expect_err("an unknown form");
    assert!(error.contains("text") && error.contains("json"), "{error}");
}

#[test]
fn registration_can_be_a_list_of_addresses() {
    let address = SecretKey::from_seed([1; 32]).public();
    let dir = written("");
    let settings = env(&[("POSTROAD_ALLOW_REGISTRATION", &address.to_string())]);
    let config = NodeConfig::load(dir.path(), &settings).expect("it loads");
    assert!(config.allow_registration.allows(&address));
    assert!(!config.allow_registration.allows(&SecretKey::from_seed([2; 32]).public()));
}

#[test]
fn who_may_move_here_is_not_who_may_register() {
    let address = SecretKey::from_seed([1; 32]).public();
    let dir = written("allow_registration = \"closed\"\n[moves]\nmax_mailbox_bytes = 5\n");
    let config = NodeConfig::load(dir.path(), &[]).expect("it loads");
    assert_eq!(config.moves, Moves { accept: Registration::Open, max_mailbox_bytes: 5 });
    let settings = env(&[("POSTROAD_MOVES_ACCEPT", &address.to_string())]);
    let config = NodeConfig::load(dir.path(), &settings).expect("it loads");
    assert_eq!(config.moves.accept, Registration::Only(vec![address]));
    assert_eq!(NodeConfig::parse(&render(&config)), Ok(NodeConfig { dir: NodeDir::default(), ..config }));
}

#[test]
fn who_may_name_a_node_its_deputy_is_a_word_or_a_list() {
    let node = SecretKey::from_seed([1; 32]).public();
    let dir = written("deputy_for = \"nobody\"\n");
    let load = |settings: &[Setting]| NodeConfig::load(dir.path(), settings).expect("it loads").deputy_for;
    assert_eq!(load(&[]), DeputyFor::Nobody);
    assert_eq!(load(&env(&[("POSTROAD_DEPUTY_FOR", "anybody")])), DeputyFor::Anybody);
    assert_eq!(load(&env(&[("POSTROAD_DEPUTY_FOR", &node.to_string())])), DeputyFor::Only(vec![node]));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_line() {
    let ids: Vec<_> = (1..10).map(|seed| SecretKey::from_seed([seed; 32]).public().to_string()).collect();
    let (twice, nine) = (format!("deputies = {:?}\n", [&ids[0], &ids[0]]), format!("deputies = {ids:?}\n"));
    for (text, named) in [
        ("name = \"x\"\nnam = 3\n", ["line 2", "unknown field `nam`"]),
        ("\n\nname = 3\n", ["line 3", "expected a string"]),
        ("[limits]\nmax_clients = \"many\"\n", ["line 2", "invalid type"]),
        ("listen = [\"/ip4/nowhere\"]\n", ["line 1", "invalid IPv4 address"]),
        ("allow_registration = \"some\"\n", ["line 1", "a list of addresses"]),
        ("[moves]\naccept = \"some\"\n", ["line 2", "a list of addresses"]),
        ("deputies = [\"bob\"]\n", ["line 1", "not an address"]),
        (&twice, ["deputies", "twice"]),
        (&nine, ["deputies", "at most 8"]),
        ("deputy_for = \"some\"\n", ["line 1", "\"anybody\", \"nobody\" or a list of PeerIds"]),
        ("listen = []\n", ["listen", "at least one"]),
        ("bootstrap = [\"/ip4/127.0.0.1/tcp/1\"]\n", ["bootstrap", "/p2p/ID"]),
        ("[limits]\nmax_connections_per_peer = 1\n", ["max_connections_per_peer", "at least 2"]),
    ] {
        let dir = written(text);
        let error = NodeConfig::load(dir.path(), &[]).expect_err(text).to_string();
        assert!(error.contains("postroad.toml") && named.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn what_is_wrong_in_a_setting_is_named_with_its_origin() {
    let dir = written("");
    for (key, value) in
        [("limits.max_clients", "many"), ("listen", "nowhere"), ("no_such_key", "1"), ("limits", "1"), ("store", "x")]
    {
        let error = NodeConfig::load(dir.path(), &[Setting::flag("--set x", key, value)]).expect_err(key);
        assert!(matches!(&error, ConfigError::BadSetting { origin, .. } if origin == "--set x"), "{error}");
    }
}

#[test]
fn announced_is_what_others_can_dial() {
    let mut config = NodeConfig::default();
    assert_eq!(config.announced(), []);
    let concrete: postroad_net::Multiaddr = "/ip4/192.0.2.7/tcp/4170".parse().expect("an address");
    config.listen.extend([concrete.clone(), "/ip4/192.0.2.7/tcp/0".parse().expect("an address")]);
    assert_eq!(config.announced(), [concrete]);
    config.announce = vec!["/dns4/post.example/tcp/1".parse().expect("an address")];
    assert_eq!(config.announced(), config.announce);
}

#[test]
fn a_key_is_written_once_and_is_its_owners_alone() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = NodeDir::new(&temp.path().join("node"));
    assert!(matches!(dir.read_key(), Err(ConfigError::Missing { .. })));
    dir.write_key(&SecretKey::from_seed([1; 32])).expect("it is written");
    assert!(matches!(dir.write_key(&SecretKey::from_seed([2; 32])), Err(ConfigError::Exists { .. })));
    assert_eq!(dir.read_key().expect("it is read").seed(), [1; 32]);
    assert_eq!(fs::metadata(dir.key()).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).expect("it is a directory").count(), 1, "nothing else is left there");

    fs::set_permissions(dir.key(), fs::Permissions::from_mode(0o640)).expect("modes can be set");
    assert!(matches!(dir.read_key(), Err(ConfigError::ExposedKey { mode: 0o640, .. })));
    fs::set_permissions(dir.key(), fs::Permissions::from_mode(0o600)).expect("modes can be set");
    fs::write(dir.key(), "12").expect("it can be written");
    assert!(matches!(dir.read_key(), Err(ConfigError::Bad { .. })));
}

#[test]
fn a_missing_genesis_is_told() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let error = NodeDir::new(temp.path()).read_genesis().expect_err("there is none");
    assert!(matches!(error, ConfigError::NoGenesis { .. }) && error.to_string().contains("genesis.toml"));
}
