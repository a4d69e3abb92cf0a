//! What stands below the options in the help of each command.

/// The help of a command that asks the daemon: examples, and how it ends.
macro_rules! asks {
    ($text:literal, done: $done:literal, $(usage: $usage:literal,)? cannot: $cannot:literal) => {
        concat!(
            $text,
            "\n\nExit codes:\n   0  ",
            $done,
            $("\n  64  ", $usage,)?
            "\n  70  ",
            $cannot,
            "nothing listens there, or not for this user\n  78  the configuration has no [admin] address, or is wrong"
        )
    };
}

pub(super) const AFTER_HELP: &str = "\
Start here:
  kmsproxy dev                          try it, without a configuration or a cloud account
  kmsproxy check --config FILE          look over a configuration
  kmsproxy serve --config FILE          run it
  kmsproxy status                       ask the one that runs
  kmsproxy reload                       have it read its configuration again
  kmsproxy top                          watch it
  kmsproxy bench hit                    see what it does under load

Exit codes:
   0  done, or stopped as asked
   1  an audit log is incomplete
  64  the command line makes no sense
  65  an audit log is broken, or a benchmark was given a wrong plaintext
  70  it ran, and then could not go on
  75  somebody else listens on the address
  78  the configuration is wrong; `kmsproxy check` says where";

pub(super) const SERVE_HELP: &str = "\
Examples:
  kmsproxy serve
  kmsproxy serve --config /etc/kmsproxy/kmsproxy.toml --log debug
  kmsproxy serve --set cache.capacity=50000
  KMSPROXY_CACHE__CAPACITY=50000 kmsproxy serve

The later wins: defaults, the file, KMSPROXY_SECTION__KEY, --set. Listeners and callers are set in the file only.";

pub(super) const DEV_HELP: &str = "\
Examples:
  kmsproxy dev
  kmsproxy dev --kms-latency 20ms --state-dir ./state
  kmsproxy dev --listen 127.0.0.1:0 --json";

pub(super) const STATUS_HELP: &str = asks!(
    "\
Examples:
  kmsproxy status
  kmsproxy status --socket ./state/admin.sock
  kmsproxy status --json | jq '.upstreams[].keys[] | {key, old}'",
    done: "told",
    cannot: ""
);

pub(super) const RELOAD_HELP: &str = "\
Examples:
  kmsproxy reload
  kmsproxy reload --socket ./state/admin.sock

Exit codes:
   0  reloaded
  70  nothing listens there, or not for this user
  78  not reloaded: the configuration is wrong, takes a restart, or cannot be carried out; nothing has changed";

pub(super) const TOP_HELP: &str = asks!(
    "\
Examples:
  kmsproxy top
  kmsproxy top --socket ./state/admin.sock --every 5

Keys:
  q, Esc, Ctrl-C   end",
    done: "ended as asked",
    cannot: "this is no terminal; or "
);

pub(super) const PURGE_HELP: &str = asks!(
    "\
Examples:
  kmsproxy purge --key key-hzz62f
  kmsproxy purge --caller ack
  kmsproxy purge --ciphertext < blob.base64
  kmsproxy purge --all",
    done: "purged",
    usage: "say what to purge, and one thing only",
    cannot: "no such key or caller; or "
);

pub(super) const EXPLAIN_HELP: &str = asks!(
    "\
Examples:
  kmsproxy explain --caller ack < blob.base64
  kmsproxy explain --caller ack --context namespace=default --context name=db < blob.base64
  kmsproxy explain --caller ack --json < blob.base64 | jq '.upstreams[] | {verdict, why, remedy}'",
    done: "told",
    cannot: "no such caller or listener, no base64; or "
);

pub(super) const LOG_LEVEL_HELP: &str = asks!(
    "\
Examples:
  kmsproxy log-level
  kmsproxy log-level debug
  kmsproxy log-level info,kmsproxy::watch=debug",
    done: "told, or changed",
    cannot: "no such level; or "
);

pub(super) const ORDERS_HELP: &str = asks!(
    "\
Examples:
  kmsproxy keys
  kmsproxy refresh key-hzz62f
  kmsproxy drain --socket ./state/admin.sock",
    done: "told, or begun",
    cannot: "no such key; or "
);

pub(super) const EMULATOR_HELP: &str = "\
Examples:
  kmsproxy emulator
  kmsproxy emulator --listen 127.0.0.1:0 --json";

pub(super) const CHECK_HELP: &str = "\
Examples:
  kmsproxy check
  kmsproxy check --config ./kmsproxy.toml --print
  kmsproxy check --config ./package/kmsproxy.toml --root ./package/files

Exit codes:
   0  valid
  75  valid, but somebody (a running kmsproxy?) listens on one of its addresses
  78  wrong";
