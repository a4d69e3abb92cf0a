//! The table of error classes, walked: each error of the KMS, as its document, to each operation, through the decoder, the
//! engine and both faces; and SEMANTICS.md prints what the code says.

#![allow(clippy::unwrap_used)]

#[path = "errors/classes.rs"]
mod classes;
#[path = "errors/codes.rs"]
mod codes;
#[path = "errors/printed.rs"]
mod printed;
#[path = "errors/scene.rs"]
mod scene;

use kmsproxy::fault::{About, Consequence, Effect, Evidence, Fault};
use kmsproxy::kms::{Action, RequestId};
use kmsproxy::wire::aliyun;
use kmsproxy::wire::kubernetes::refusal::{Refusal, Subject};

use classes::Question;
use codes::{CODES, REQUEST_ID, silence};
use scene::Scene;

/// Every operation, and what each may be about.
const QUESTIONS: [(Action, Question); 14] = [
    (Action::Decrypt, Question::Scope),
    (Action::Decrypt, Question::Stranger),
    (Action::Encrypt, Question::Id),
    (Action::Encrypt, Question::Name),
    (Action::GenerateDataKey, Question::Id),
    (Action::GenerateDataKey, Question::Name),
    (Action::GenerateDataKeyWithoutPlaintext, Question::Id),
    (Action::GenerateDataKeyWithoutPlaintext, Question::Name),
    (Action::DescribeKey, Question::Id),
    (Action::DescribeKey, Question::Name),
    (Action::ListKeyVersions, Question::Id),
    (Action::DescribeKeyVersion, Question::Name),
    (Action::ListKeys, Question::List),
    (Action::ListAliases, Question::List),
];

#[tokio::test]
async fn each_error_does_to_leases_what_its_class_says_whatever_was_asked() {
    for code in CODES {
        for (action, question) in QUESTIONS.into_iter().filter(|(action, _)| code.suits(*action)) {
            let mut scene = Scene::new().await;
            scene.hear(&code.said_to(action), action, question).await;
            assert_eq!(
                scene.look(),
                code.class.seen(question),
                "{} {} to {action:?} {question:?}",
                code.status,
                code.code
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_of_the_kms_closes_nothing() {
    for (shown, fault, class, _) in silence() {
        for (action, question) in QUESTIONS {
            let mut scene = Scene::new().await;
            scene.hear(&fault, action, question).await;
            assert_eq!(scene.look(), class.seen(question), "{shown} to {action:?} {question:?}");
        }
    }
}

#[tokio::test]
async fn each_error_is_remembered_for_as_long_as_its_class_says() {
    let said = CODES.iter().map(|code| (code.code, code.said_to(Action::Decrypt), code.class));
    for (shown, fault, class) in said.chain(silence().into_iter().map(|(shown, fault, class, _)| (shown, fault, class)))
    {
        let mut scene = Scene::new().await;
        scene.hear(&fault, Action::Decrypt, Question::Stranger).await;
        assert!(scene.is_remembered_for(class.remembered()).await, "{shown}: not for {:?}", class.remembered());
    }
}

#[test]
fn each_error_is_asked_again_as_its_class_says() {
    for code in CODES {
        for (action, _) in QUESTIONS.into_iter().filter(|(action, _)| code.suits(*action)) {
            let fault = code.said_to(action);
            assert_eq!(fault.consequence().retry, code.class.retry(), "{} to {action:?}", code.code);
        }
    }
    for (shown, fault, class, _) in silence() {
        assert_eq!(fault.consequence().retry, class.retry(), "{shown}");
    }
}

#[test]
fn a_caller_of_the_aliyun_face_gets_status_code_and_request_id_as_they_were_said() {
    for code in CODES {
        for (action, _) in QUESTIONS.into_iter().filter(|(action, _)| code.suits(*action)) {
            let (status, body) = aliyun::refusal::encode(&code.said_to(action), &RequestId::new("ours"));
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let seen = (status.as_u16(), body["Code"].as_str().unwrap(), body["RequestId"].as_str().unwrap());
            assert_eq!(seen, (code.status, code.code, REQUEST_ID));
        }
    }
    for (shown, fault, ..) in silence() {
        let (status, body) = aliyun::refusal::encode(&fault, &RequestId::new("ours"));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status.as_u16(), body["Code"].as_str()), (409, Some("Rejected.Unavailable")), "{shown}");
    }
}

#[test]
fn a_caller_of_the_kubernetes_face_gets_the_code_of_its_row() {
    let subject = Subject { listener: "kube", caller: Some("apiserver"), key: Some("alias/k8s") };
    let name = |fault: &Fault| Refusal::of(fault, &subject).code.name();
    for code in CODES {
        for (action, _) in QUESTIONS.into_iter().filter(|(action, _)| code.suits(*action)) {
            assert_eq!(name(&code.said_to(action)), code.grpc, "{} to {action:?}", code.code);
        }
    }
    for (shown, fault, _, grpc) in silence() {
        assert_eq!(name(&fault), grpc, "{shown}");
    }
}

#[test]
fn an_error_of_ours_says_nothing_of_any_lease() {
    for code in CODES {
        let kind = code.said_to(Action::Decrypt).kind().clone();
        for fault in [Fault::caller(kind.clone()), Fault::proxy(kind)] {
            assert_eq!(Consequence::of(&fault).evidence, Evidence::Nothing, "{}", code.code);
        }
    }
    for about in [About::Id, About::List, About::Name, About::Scope, About::Stranger] {
        assert_eq!(Effect::of(Evidence::Nothing, about), Effect::Nothing);
    }
}

/// `cargo test --test errors -- --nocapture semantics` prints the table.
#[test]
fn semantics_prints_the_table_as_it_is() {
    let table = printed::table();
    eprintln!("{table}");
    let semantics = include_str!("../SEMANTICS.md");
    assert!(semantics.contains(&table), "SEMANTICS.md does not have the table above as it is");
}
