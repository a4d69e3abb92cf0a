//! The functions by whose names counts are told apart. Each only calls what it is given.

use std::hint::black_box;

macro_rules! counted {
    ($($name:ident)*) => {
        $(
            // Its own name in its body, so that it is not made one with its equals.
            #[inline(never)]
            pub(crate) fn $name<T>(what: impl FnOnce() -> T) -> T {
                black_box(stringify!($name));
                black_box(what())
            }
        )*

        /// All of them, in the order of the table.
        pub(crate) const ALL: &[&str] = &[$(stringify!($name)),*];
    };
}

counted! {
    hit_aliyun_v1
    hit_aliyun_v3
    hit_aliyun_unsigned
    hit_kubernetes_v1
    hit_kubernetes_v2
    aliyun_request_v1
    aliyun_request_v3
    aliyun_answer
    kubernetes_request_v1
    kubernetes_request_v2
    kubernetes_answer
    signature_v1
    signature_v3
    admit_v1
    admit_unix
    fingerprint
    cache_find
    seal
    open
    audit_accept
    audit_line
}
