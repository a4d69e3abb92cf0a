//! What is counted: hits, as far as they go without a socket, and their parts.

use kmsproxy::claim::{Claim, Peer, SigningKey};
use kmsproxy::clock::Clock as _;
use kmsproxy::kms::KeyName;
use kmsproxy::listener::Service as _;
use kmsproxy::metrics;
use kmsproxy::seal::EpochKey;
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::answer;
use kmsproxy::wire::brief;
use kmsproxy::wire::kubernetes::{self, Method, answer as kubernetes_answer};

use crate::audit;
use crate::counted;
use crate::kms::{KEY, PLAINTEXT, answer as of_kms};
use crate::provider;
use crate::requests::{Form, Parts, kubernetes_v1, kubernetes_v2};
use crate::world::{DEKS, KUBERNETES_DEKS, UPSTREAM, World, decrypt, peer, ready, secret, share};

/// Runs every case, each often enough that what is random in it (where an entry lies in its table) is lost in the mean.
pub(crate) fn run() {
    // As in the daemon: the meters of a hit are real.
    let _metrics = metrics::install().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime.enter();
    let world = World::new();
    // moka is told of the first hit in eight seconds; it has heard of these.
    let (permit, now) = (world.policy.upkeep(), world.clock.now());
    for (count, key) in [(DEKS, None), (KUBERNETES_DEKS, Some(KeyName::new(KEY)))] {
        for number in 0..count {
            let fingerprint = world.cache.fingerprint(UPSTREAM, &share(), &decrypt(number, key.clone()));
            world.cache.find(&permit, &fingerprint, now).unwrap();
        }
    }
    aliyun(&world);
    drop(guard);
    kubernetes(&world, &runtime);
    wire_of_kubernetes();
    door(&world);
    cache(&world);
    cipher();
    audit::each(&world, chosen(audit::UNCOUNTED + TIMES));
}

/// Blobs from all over the cache, and a nonce that nobody else has.
fn chosen(times: usize) -> impl Iterator<Item = usize> {
    (0..times).map(|turn| turn * 7919 % DEKS)
}

fn aliyun(world: &World) {
    let peer = peer("ack");
    let expected = answer::encode(&of_kms());
    let mut nonces = 0..;
    for (form, times) in [(Form::V1, UNCOUNTED), (Form::V3, UNCOUNTED), (Form::Unsigned, UNCOUNTED)]
        .into_iter()
        .chain([(Form::V1, TIMES), (Form::V3, TIMES), (Form::Unsigned, TIMES)])
    {
        for number in chosen(times) {
            let request = Parts::new(form, number, nonces.next().unwrap()).bytes();
            let answering = || {
                let heard = brief::read(&request, |brief| world.aliyun.hear(&peer, brief)).flatten().unwrap();
                ready(world.aliyun.answer_heard(&peer, heard)).bytes(false)
            };
            let answer = match form {
                _ if times == UNCOUNTED => answering(),
                Form::V1 => counted::hit_aliyun_v1(answering),
                Form::V3 => counted::hit_aliyun_v3(answering),
                Form::Unsigned => counted::hit_aliyun_unsigned(answering),
            };
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
            assert_eq!(answer.len() - head, expected.len());
        }
    }
    for number in chosen(TIMES) {
        let parts = Parts::new(Form::V1, number, number);
        counted::aliyun_request_v1(|| parts.parse().call()).unwrap();
        let parts = Parts::new(Form::V3, number, number);
        counted::aliyun_request_v3(|| parts.parse().call()).unwrap();
        let answer = of_kms();
        counted::aliyun_answer(|| answer::encode(&answer));
    }
}

fn kubernetes(world: &World, runtime: &tokio::runtime::Runtime) {
    let peer = peer("kubernetes");
    let expected = kubernetes_answer::decrypted(&Secret::copied(&PLAINTEXT));
    let check = |answer: kmsproxy::listener::Answer| {
        assert_eq!(answer.response.body()[..], *expected.expose());
    };
    let mut turn = 0;
    runtime.block_on(provider::each(Method::V1Decrypt, messages(kubernetes_v1), |request| {
        turn += 1;
        let answering = || ready(world.kubernetes.serve(request, &peer));
        check(if turn <= UNCOUNTED { answering() } else { counted::hit_kubernetes_v1(answering) });
    }));
    let mut turn = 0;
    runtime.block_on(provider::each(Method::V2Decrypt, messages(kubernetes_v2), |request| {
        turn += 1;
        let answering = || ready(world.kubernetes.serve(request, &peer));
        check(if turn <= UNCOUNTED { answering() } else { counted::hit_kubernetes_v2(answering) });
    }));
}

fn messages(message: fn(usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    (0..UNCOUNTED + TIMES).map(|turn| message(turn * 7 % KUBERNETES_DEKS)).collect()
}

fn wire_of_kubernetes() {
    for number in 0..TIMES {
        let (v1, v2) = (kubernetes_v1(number), kubernetes_v2(number));
        counted::kubernetes_request_v1(|| kubernetes::Request::decode(Method::V1Decrypt, &v1)).unwrap();
        counted::kubernetes_request_v2(|| kubernetes::Request::decode(Method::V2Decrypt, &v2)).unwrap();
        let plaintext = Secret::copied(&PLAINTEXT);
        counted::kubernetes_answer(|| kubernetes_answer::decrypted(&plaintext));
    }
}

fn door(world: &World) {
    let (now, wall) = (world.clock.now(), world.clock.wall());
    let key = SigningKey::new(&secret()).unwrap();
    let admit = |peer: &Peer, claim: &Claim<'_>| world.door.admit(peer, claim, now, wall);
    let peer = peer("ack");
    for number in chosen(TIMES) {
        // Nonces of the hits end far below.
        let (v1, v3) = (Parts::new(Form::V1, number, 1_000_000 + number), Parts::new(Form::V3, number, number));
        let (v1, v3) = (v1.parse(), v3.parse());
        let claims = (v1.claim().unwrap(), v3.claim().unwrap());
        let (Claim::Signed(signed_v1), Claim::Signed(signed_v3)) = &claims else { panic!("both are signed") };
        assert!(counted::signature_v1(|| signed_v1.proof.verify(&key)));
        assert!(counted::signature_v3(|| signed_v3.proof.verify(&key)));
        counted::admit_v1(|| admit(&peer, &claims.0)).unwrap();
        counted::admit_unix(|| admit(&peer, &Claim::Anonymous)).unwrap();
    }
}

fn cache(world: &World) {
    let (permit, now, share) = (world.policy.upkeep(), world.clock.now(), share());
    for number in chosen(TIMES) {
        let call = decrypt(number, None);
        let fingerprint = counted::fingerprint(|| world.cache.fingerprint(UPSTREAM, &share, &call));
        counted::cache_find(|| world.cache.find(&permit, &fingerprint, now)).unwrap();
    }
}

fn cipher() {
    let (key, tag) = (EpochKey::generate().unwrap(), [7; 32]);
    for _ in 0..TIMES {
        let sealed = counted::seal(|| key.seal(&tag, &PLAINTEXT)).unwrap();
        counted::open(|| key.open(&tag, &sealed)).unwrap();
    }
}

const TIMES: usize = 400;
/// Of each kind, before any is counted: what is made once is made.
const UNCOUNTED: usize = 20;
