//! Sealing keys of scopes that hold nothing any more must not use up guarded memory. A target of its own: it fills the
//! arena of the process.

use std::sync::Arc;

use kmsproxy::clock::Manual;
use kmsproxy::guard;
use kmsproxy::kms::{Ciphertext, Decrypt, Extra, KeyId};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;

#[test]
fn a_scope_without_entries_gives_its_sealing_key_up_to_one_that_needs_it() {
    let clock = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse().unwrap()));
    let ledger = Ledger::new("test", Terms::default(), Arc::<Manual>::clone(&clock));
    let call = Decrypt {
        ciphertext: Ciphertext::new(b"1".to_vec()),
        key: None,
        context: None,
        dry_run: false,
        extra: Extra::default(),
    };
    for n in 0..=guard::capacity() {
        let scope = ledger.scope(&KeyId::new(&format!("key-{n}")), None);
        let kept = scope.keep(ledger.ask(), &call, b"tag", b"dek").unwrap();
        assert!(kept.sealed.is_some(), "no room for scope {n} of {}, though none has an entry", guard::capacity());
    }
}
