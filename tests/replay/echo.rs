//! The upstream of the recorded conversations: it answers with what it received, or as it is asked.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

/// An echo that listens until it is dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, task }
    }

    /// A world file with this upstream where it names the recorded one.
    pub(crate) fn serve(&self, world: &str) -> String {
        world.replace("127.0.0.1:9900", &self.address.to_string())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let query: Vec<(String, String)> = url::form_urlencoded::parse(query).into_owned().collect();
    let asked = |name: &str| query.iter().find(|(it, _)| it == name).map(|(_, v)| v.as_str());
    let last = head.uri.path().rsplit('/').next().unwrap_or_default();
    let mut status = StatusCode::OK;
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    match last {
        "stream" => return stream(asked("n"), asked("ms"), asked("fixed").is_some()),
        "respond" => {
            status = asked("s").map_or(status, |status| status.parse().unwrap());
            for (_, line) in query.iter().filter(|(name, _)| name == "h") {
                let (name, value) = line.split_once(':').unwrap();
                add(name, value);
            }
        }
        "redirect" => {
            status = StatusCode::FOUND;
            add("location", "/elsewhere");
        }
        "redirect-absolute" => {
            status = StatusCode::FOUND;
            add("location", "http://127.0.0.1:9/elsewhere");
        }
        "headers" => {
            for (name, value) in [
                ("server", "echo"),
                ("x-powered-by", "echo"),
                ("x-caracal-identity", "forged"),
                ("refresh", "1"),
                ("x-kept", "yes"),
                ("set-cookie", "a=b"),
            ] {
                add(name, value);
            }
        }
        code if head.uri.path().ends_with(&format!("/status/{code}")) => {
            status = code.parse().unwrap();
        }
        _ => {}
    }
    let latin1 = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect::<String>();
    let received = head.headers.iter().map(|(k, v)| json!([k.as_str(), latin1(v.as_bytes())]));
    let echo = json!({
        "echo": true,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |target| target.as_str()),
        "headers": received.collect::<Vec<_>>(),
        "body": latin1(&body[..body.len().min(200)]),
        "length": body.len(),
    });
    let has_body = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let mut response =
        Response::new(if has_body { Body::from(echo.to_string()) } else { Body::empty() });
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert("x-upstream", HeaderValue::from_static("echo"));
    for (name, value) in headers {
        fields.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
    }
    response
}

/// So many events with pauses between them; with a length beforehand, if it is `fixed`.
fn stream(events: Option<&str>, pause: Option<&str>, fixed: bool) -> Response {
    let number = |text: Option<&str>, otherwise| text.map_or(otherwise, |n| n.parse().unwrap());
    let (count, pause) = (number(events, 3), Duration::from_millis(number(pause, 0)));
    let events = futures_util::stream::unfold(0, move |at| async move {
        if at > 0 {
            tokio::time::sleep(pause).await;
        }
        let event = Bytes::from(format!("data: {at:05}\n\n"));
        (at < count).then_some((Ok::<_, std::convert::Infallible>(event), at + 1))
    });
    let mut response = Response::new(Body::from_stream(events));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    if fixed {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(13 * count));
    }
    response
}
