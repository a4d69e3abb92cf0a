//! Calls of the Kubernetes face, whose requests only h2 can make: a client and a server in one task, over a pipe in memory.

use bytes::Bytes;
use h2::{RecvStream, client, server};
use http::{Request, Response};
use kmsproxy::wire::kubernetes::Method;

/// Hands each of `messages` to `serve` as a request to `method` whose body is there already.
pub(crate) async fn each(method: Method, messages: Vec<Vec<u8>>, mut serve: impl FnMut(Request<RecvStream>)) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (client, server) = tokio::join!(client::handshake(ours), server::handshake(theirs));
    let ((send, connection), mut server) = (client.unwrap(), server.unwrap());
    let client = tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    for message in messages {
        let request = Request::post(format!("http://localhost{}", method.path()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(());
        let (response, mut body) = send.send_request(request.unwrap(), false).unwrap();
        body.send_data(Bytes::from(message), true).unwrap();
        let (request, mut answer) = server.accept().await.unwrap().unwrap();
        // The body is read while nothing else comes.
        let more = tokio::time::timeout(std::time::Duration::from_millis(1), server.accept()).await;
        assert!(more.is_err());
        serve(request);
        answer.send_response(Response::new(()), true).unwrap();
        let (answered, more) = tokio::join!(response, async {
            tokio::time::timeout(std::time::Duration::from_millis(1), server.accept()).await
        });
        assert!(answered.unwrap().status().is_success() && more.is_err());
    }
    client.abort();
}
