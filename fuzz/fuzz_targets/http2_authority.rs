//! The `:authority` of header blocks: after mending, each block has the length that it had and is decoded to the same
//! fields by the same table, but for an `:authority` that h2 would refuse.
#![no_main]

use http::uri::Authority;
use kmsproxy::wire::http2::authority::mend;
use kmsproxy_fuzz::hpack::{Decoder, Field, Form};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cut, input)) = input.split_first() else { return };
    let (one, other) = input.split_at(usize::from(cut).min(input.len()));
    let (mut before, mut after) = (Decoder::default(), Decoder::default());
    for block in [one, other] {
        let mut mended = block.to_vec();
        mend(&mut mended);
        assert_eq!(mended.len(), block.len());
        let ((sent, whole), (seen, still)) = (before.block(block), after.block(&mended));
        assert_eq!((sent.len(), whole), (seen.len(), still), "{sent:?} {seen:?}");
        for (sent, seen) in sent.iter().zip(&seen) {
            compared(sent, seen);
        }
        let sizes =
            |side: &Decoder| side.table.iter().map(|(name, value)| (name.clone(), value.len())).collect::<Vec<_>>();
        assert_eq!(sizes(&before), sizes(&after));
        let mut again = mended.clone();
        mend(&mut again);
        assert_eq!(again, mended, "what is mended needs no mending");
        if !whole {
            return;
        }
    }
});

fn compared(sent: &Field, seen: &Field) {
    assert_eq!((&sent.name, sent.form, sent.value.len()), (&seen.name, seen.form, seen.value.len()));
    let refused = |field: &Field| Authority::try_from(&*field.value).is_err();
    match sent.form {
        // What it refers to was mended where it was written out.
        Form::Indexed => assert!(sent.value == seen.value || sent.name == b":authority"),
        Form::Literal { index, huffman, encoded, .. } => {
            let ours = sent.name == b":authority" && index <= 61 && refused(sent);
            if sent.value != seen.value {
                assert!(ours && !refused(seen), "{sent:?} became {seen:?}");
            } else if ours && (1..=4096).contains(&encoded) {
                assert!(
                    huffman && encoded * 8 - sent.value.len() * 5 >= 8 * (sent.value.len() + 1),
                    "{sent:?} was left"
                );
            }
        }
    }
}
